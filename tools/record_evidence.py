#!/usr/bin/env python3
"""Run a command and record what it showed: evidence is written by this script, never typed.

    tools/record_evidence.py NAME [--input FILE ...] [--result FILE ...] [--run-dir RUN]
                             -- COMMAND ...

Writes evidence/<date>-<NAME>/: record.json (commit, whether the tree was clean, command, exit code,
seconds, device, versions, SHA-256 of every input and of every file attached), what the command
printed (output.txt; with --run-dir, dispatch.txt), README.md made from these. --result files, such
as a JSON report or the verdicts.json of `aprnb contracts run --json`, are copied beside them;
--run-dir is the folder that a training run of the command left: its summary, metrics and epoch
metadata are copied, what it read is digested; verdicts about a run need it beside them. A record of
the same day and name is replaced. The exit code is the command's.
"""
import argparse
import subprocess
import sys
import time
from pathlib import Path

from endings import end

ROOT = Path(__file__).parents[1]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("name", metavar="NAME", help="of the record, after the date")
    p.add_argument("--input", action="append", default=[], help="file or folder the command reads")
    p.add_argument("--result", action="append", default=[], help="file it leaves, to be attached")
    p.add_argument("--run-dir", help="folder that a training run of the command leaves")
    p.add_argument("--note", action="append", default=[], help="a sentence for README.md")
    p.add_argument("--commit", help="commit the code is of, where there is no git checkout")
    p.add_argument("--root", default=ROOT / "evidence", type=Path)
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, command = p.parse_args(sys.argv[1:cut]), sys.argv[cut + 1:]
    if not command:
        p.error("the command to run stands behind --")
    return record(args, command)


def record(args, command):
    """Exit code of the command, after its evidence has been written."""
    from aprnb.proof.evidence import folder as evidence
    from aprnb.proof.evidence.training import attach_run, device_of_run, inputs_of_run
    from aprnb.proof.paths import copy_shortened
    from aprnb.provenance import origin, require_commit
    where, begin = require_commit(origin(ROOT, args.commit)), time.monotonic()
    place = evidence.dated(args.root, args.name)
    with evidence.draft(place, force=True) as folder:
        log = folder / (evidence.DISPATCH if args.run_dir else evidence.OUTPUT)
        with open(log, "wb") as out:
            code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode
        seconds = time.monotonic() - begin
        copy_shortened(log, log, ROOT)
        evidence.attach(folder, args.result, ROOT)
        inputs, device = args.input, None
        if args.run_dir and (Path(args.run_dir) / "config.json").is_file():
            attach_run(folder, args.run_dir, ROOT)
            inputs = [*args.input, *inputs_of_run(args.run_dir)]
            device = device_of_run(args.run_dir)
        evidence.seal(folder, ROOT, args.name, where, command, code, seconds, device, inputs,
                      args.note)
    print(f"{place.name}: exit {code} after {seconds:.1f} s")
    return code


if __name__ == "__main__":
    end(main)
