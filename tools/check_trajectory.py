#!/usr/bin/env python3
"""Do the losses of a run equal PyTorch's, step by step?

    tools/check_trajectory.py RUN/metrics.jsonl reference.npz

Compares loss_nats with traj_loss and grad_norm with traj_gradnorm; every loss must agree within
1e-3 relative.
"""
import argparse
import json
import sys

import numpy as np

LIMIT = 1e-3


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("metrics", help="metrics.jsonl of a run")
    p.add_argument("reference", help=".npz with traj_loss and traj_gradnorm")
    args = p.parse_args()
    rows = [json.loads(line) for line in open(args.metrics)]
    want = np.load(args.reference)
    worst = {}
    for ours, theirs in (("loss_nats", "traj_loss"), ("grad_norm", "traj_gradnorm")):
        got = np.array([row[ours] for row in rows])
        if len(got) != len(want[theirs]):
            raise SystemExit(f"{args.metrics}: {len(got)} steps, the reference has "
                             f"{len(want[theirs])}")
        worst[ours] = float(np.abs(got / want[theirs] - 1).max())
    print(f"{len(rows)} steps: losses within {worst['loss_nats']:.1e} relative of the reference, "
          f"gradient norms within {worst['grad_norm']:.1e}; limit {LIMIT:g} on losses")
    return 0 if worst["loss_nats"] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
