#!/usr/bin/env python3
"""Do the tests notice when the code is changed? Mutates it, change by change, and counts.

    tools/mutate.py [FILE ...] [--report FILE.json]

Each mutant (mutants.py says what is changed) is put into a copy of the checkout and judged by the
tests that run its line. Printed per file: mutants, killed, of these by running out of time,
survived, and of these the ones that tests/surviving_mutants.toml lists with a reason; "texts" were
left out by rule. Then every survivor that is not listed, as a diff. The rate is killed / mutants,
whatever is listed.

Exit status: 0; 5 if a survivor is not listed, if one is listed that does not exist, if the rate is
under 90 %, or if a test fails without any mutant; 2 for a file that is no target. A listed mutant
that was killed is reported. (mutmut does the like, but leaves functions with decorators and the
constants of modules alone.)
"""
import argparse
import json
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path

from endings import end
from mutants import key_of, mutants_of

ROOT = Path(__file__).parents[1]
LISTED = ROOT / "tests/surviving_mutants.toml"
LEAST_RATE = 0.9
TARGETS = {  # files that carry promises: tests that judge them, in turn
    "formats/apr_layout": "apr_layout apr_format quant",
    "formats/apr_reader": "apr_reader apr_format reference_files hostile_texts apr_fuzz",
    "formats/apr_writer": "apr_writer apr_format import_export",
    "formats/atomic": "atomic import_export",
    "formats/convert": "convert import_export",
    "formats/diff": "diff tensor_stats",
    "formats/dtype_evidence": "dtype_evidence tensor_stats",
    "formats/hf_folder": "hf_folder import_export",
    "formats/inspect": "inspect tensor_stats",
    "formats/model_file": "model_file import_export tensor_stats",
    "formats/moments": "moments tensor_stats",
    "formats/names": "names import_export reference_files",
    "formats/quant": "quant reference_files",
    "formats/safetensors": "safetensors import_export hostile_texts",
    "formats/stats": "stats_report tensor_stats",
    "formats/tensors": "tensors apr_format import_export quant tensor_stats",
    "formats/tokenizer_keys": "tokenizer_keys import_export hostile_texts",
    "formats/validate": "validate tensor_stats",
    "oracle/adamw": "adamw",
    "oracle/linear_cross_entropy": "linear_cross_entropy",
    "oracle/reduce": "reduce",
    "train/checkpoint": "checkpoint",
    "train/gates": "gates",
    "train/schedule": "schedule",
    "train/step": "step decoder backends",
}
COLUMNS = ("mutants", "killed", "timeout", "survived", "listed", "texts")


def main():
    p = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("files", nargs="*", metavar="FILE",
                   help="such as aprnb/oracle/adamw.py; by default all that carry promises")
    p.add_argument("--report", type=Path, help="write table and survivors as JSON")
    args = p.parse_args()
    if args.report and not args.report.parent.is_dir():
        p.error(f"--report {args.report}: no such folder")
    jobs = jobs_of(args.files, p)
    listed = tomllib.loads(LISTED.read_text())
    begin, rows, survivors, faults = time.time(), [], [], []
    print(f"{'file':36s}" + "".join(f"{name:>9s}" for name in COLUMNS) + "     rate", flush=True)
    for file, outcomes, texts in judged(jobs):
        reasons = listed.get(file, {})
        alive = [{"file": file, "where": m.where, "was": m.was, "now": m.now,
                  "reason": reasons.get(m.key)} for m, o in outcomes if o == "survived"]
        rows.append(row(file, outcomes, alive, texts))
        print_row(rows[-1])
        survivors += alive
        faults += list_faults(file, [m.key for m, _ in outcomes], alive, reasons)
    rows.append(total(rows))
    print_row(rows[-1])
    if rows[-1]["killed"] < LEAST_RATE * rows[-1]["mutants"]:
        faults.append(f"fewer than {LEAST_RATE:.0%} of the mutants were killed")
    if args.report:
        args.report.write_text(json.dumps({"schema": "aprnb-mutants-v1", "files": rows,
                                           "survivors": survivors, "faults": faults},
                                          indent=1) + "\n")
    print(*faults, f"{time.time() - begin:.0f} s", sep="\n")
    return 5 if faults else 0


def jobs_of(files, parser):
    """{file: its test files}."""
    jobs = {f"aprnb/{name}.py": [f"tests/test_{test}.py" for test in tests.split()]
            for name, tests in TARGETS.items()}
    unknown = sorted(set(files) - set(jobs))
    if unknown:
        parser.error(f"{', '.join(unknown)}: no target; targets are {', '.join(jobs)}")
    return {file: tests for file, tests in jobs.items() if not files or file in files}


def judged(jobs):
    """Iterator of (file, [(mutant, outcome)], number of mutants of texts) of every file."""
    from mutation_bench import Bench  # needs pytest, which --help does not
    with Bench(ROOT) as bench:
        survey = bench.survey(jobs, sorted({test for tests in jobs.values() for test in tests}))
        for file, tests in jobs.items():
            mutants = mutants_of((bench.root / file).read_text())
            code = [m for m in mutants if not m.is_text]
            outcomes = [(m, bench.judge(file, m, survey, tests)) for m in code]
            yield file, outcomes, len(mutants) - len(code)


def row(file, outcomes, alive, texts):
    count = Counter(outcome for _, outcome in outcomes)
    return {"file": file, "mutants": len(outcomes), "killed": count["killed"] + count["timeout"],
            "timeout": count["timeout"], "survived": len(alive),
            "listed": sum(one["reason"] is not None for one in alive), "texts": texts}


def total(rows):
    return {"file": "all"} | {name: sum(row[name] for row in rows) for name in COLUMNS}


def print_row(row):
    rate = row["killed"] / row["mutants"] if row["mutants"] else 1.0
    print(f"{row['file']:36s}" + "".join(f"{row[name]:9d}" for name in COLUMNS) + f"{rate:9.1%}",
          flush=True)


def list_faults(file, keys, alive, reasons):
    """Where the list of survivors and what was seen differ."""
    unlisted = [f"survived, not listed: {one['file']}: {one['where']}\n- {one['was']}\n"
                f"+ {one['now']}\n" for one in alive if one["reason"] is None]
    unknown = [f"listed, no such mutant: {file}: {key}" for key in reasons.keys() - set(keys)]
    seen = {key_of(one["where"], one["was"], one["now"]) for one in alive}
    for key in sorted(reasons.keys() & set(keys) - seen):
        print(f"listed, but killed: {file}: {key}")
    return unlisted + sorted(unknown)


if __name__ == "__main__":
    end(main)
