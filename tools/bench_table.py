#!/usr/bin/env python3
"""Markdown tables of the figures in evidence/bench.csv: tables are made, never typed.

    tools/bench_table.py [FILE.csv] [--bench NAME]

One table for each device and group of cases, with the geometric mean of its ratios; above 1 = ours
is better. Memory and start-up are listed but are no part of a mean.
"""
import argparse
import math
from pathlib import Path

from endings import end

ROOT = Path(__file__).parents[1]
HEAD = ("case", "ours", "spread", "peer", "its value", "ratio", "what the peer ran", "commit",
        "date")
GROUPS = {  # bench -> the parts of a case's name that its table is about
    "gemm": lambda parts: parts[2:] or parts[1:],
    "memory": lambda parts: parts[1:],
    "attention": lambda parts: parts[:2] + parts[3:],
}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("file", nargs="?", default=ROOT / "evidence/bench.csv", type=Path,
                   help="table of rows (default evidence/bench.csv)")
    p.add_argument("--bench", help="only this one")
    args = p.parse_args()
    from aprnb.bench.record import read
    from aprnb.errors import NotFoundError, UsageError
    if not args.file.exists():
        raise NotFoundError(f"{args.file}: no such file; `aprnb bench --help` says how it is made")
    rows = read(args.file)
    benches = list(dict.fromkeys(r["bench"] for r in rows))
    if args.bench not in (None, *benches):
        raise UsageError(f"--bench {args.bench}: {args.file} has {', '.join(benches) or 'no rows'}")
    rows = [r for r in rows if args.bench in (None, r["bench"])]
    print("\n\n".join(table(title, own) for title, own in grouped(rows).items()))
    return 0


def grouped(rows):
    """Title -> rows, in the order of the file."""
    groups = {}
    for row in rows:
        about = GROUPS.get(row["bench"], lambda parts: [])(row["case"].split("/"))
        title = " ".join([row["bench"], *about]) + f" on {row['device']}"
        groups.setdefault(title, []).append(row)
    return groups


def table(title, rows):
    lines = [f"### {title}", "", line(HEAD), line(["---"] * len(HEAD))]
    lines += [line((r["case"], f"{number(r['ours'])} {r['unit']}",
                    f"{100 * float(r['spread']):.1f} %", r["peer"], number(r["peer_value"]),
                    number(r["ratio"]), r["peer_how"], r["commit"], r["date"])) for r in rows]
    ratios = [float(r["ratio"]) for r in rows if r["ratio"] and r["unit"] not in ("s", "GiB")]
    if len(ratios) > 1:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        lines += ["", f"Geometric mean of {len(ratios)} ratios {mean:.3f}, "
                      f"lowest {min(ratios):.3f}."]
    return "\n".join(lines)


def line(cells):
    return "| " + " | ".join(cells) + " |"


def number(text):
    """As people read it: thousands with commas, small ones with three digits."""
    if not text:
        return ""
    value = float(text)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    end(main)
