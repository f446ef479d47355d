#!/usr/bin/env python3
"""Do the losses of a run equal PyTorch's, step by step?

    tools/check_trajectory.py RUN/metrics.jsonl reference.npz

Compares loss_nats with traj_loss and grad_norm with traj_gradnorm; every loss must agree within
1e-3 relative.
"""
import json
import sys

import numpy as np

LIMIT = 1e-3


def main(metrics, reference):
    rows = [json.loads(line) for line in open(metrics)]
    want = np.load(reference)
    worst = {}
    for ours, theirs in (("loss_nats", "traj_loss"), ("grad_norm", "traj_gradnorm")):
        got = np.array([row[ours] for row in rows])
        if len(got) != len(want[theirs]):
            raise SystemExit(f"{metrics}: {len(got)} steps, the reference has {len(want[theirs])}")
        worst[ours] = float(np.abs(got / want[theirs] - 1).max())
    print(f"{len(rows)} steps: losses within {worst['loss_nats']:.1e} relative of the reference, "
          f"gradient norms within {worst['grad_norm']:.1e}; limit {LIMIT:g} on losses")
    return 0 if worst["loss_nats"] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
