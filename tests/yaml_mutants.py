"""Damaged contract files: what a slip, a bad disk or an enemy makes of a sound one.

Run as a program: judges MUTANTS of them and prints how many, how much longer the slowest took for
its size than a sound one, the peak of memory that judging added (MiB), and how many had a finding.
"""
import random
import sys
import time
from pathlib import Path

from campaign import TIMES

MUTANTS = 1000 * TIMES
SPECIAL = (b": ", b"- ", b"? ", b"&a ", b"*a", b"<<: *a", b"!!binary ", b"!!python/name:os.system ",
           b"%YAML 9999999999.1\n", b"---\n", b"...\n", b"|\n", b">9\n", b"\t", b"'", b'"', b"[",
           b"{", b"}", b"]", b",", b"#", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\r",
           b'"\\Uffffffff"', b'"\\ud800"', b"1e-4", b"0x1F", b"~", b".nan", b"2026-11-21",
           b"9" * 5000, b"1:2:3:4", b"0b1", b"=", b"yes", b"\\")

TYPES = (b"", b"[]", b"{}", b"''", b"5", b"-0.5", b"true", b"[[]]", b"[~, 5, a]", b"{id: 5}",
         b"[{}]", b"[{id: 5}, {id: []}]", b"{a: {b: {}}}")


def bytes_flipped(text, rng):
    for _ in range(rng.randint(1, 8)):
        text[rng.randrange(len(text))] = rng.randrange(256)
    return text


def truncated(text, rng):
    return text[:rng.randrange(len(text))]


def lines_shuffled(text, rng):
    """Lines repeated, dropped, moved, or indented anew."""
    lines = bytes(text).splitlines(keepends=True)
    for _ in range(rng.randint(1, 4)):
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        what = rng.randrange(4)
        if what == 0:
            lines.insert(j, lines[i])
        elif what == 1 and len(lines) > 1:
            del lines[i]
        elif what == 2:
            lines[i], lines[j] = lines[j], lines[i]
        else:
            lines[i] = b" " * rng.randint(0, 9) + lines[i].lstrip()
    return b"".join(lines)


def spliced(text, rng):
    """Words with a meaning in YAML put where none belongs."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text))
        text[at:at + rng.randint(0, 3)] = rng.choice(SPECIAL)
    return text


def retyped(text, rng):
    """Values of other types than their keys have."""
    lines = bytes(text).splitlines(keepends=True)
    keyed = [i for i, line in enumerate(lines) if b":" in line]
    for i in rng.sample(keyed, rng.randint(1, 3)):
        key = lines[i].partition(b":")[0]
        lines[i] = key + b": " + rng.choice(TYPES) + b"\n"
    return b"".join(lines)


def alias_bomb(text, rng):
    """Each list holds the one before it nine times: 9^levels values in a few hundred bytes."""
    lines = [b"a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for i in range(1, rng.randint(2, 40)):
        lines.append(b"a%d: &a%d [%s]" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)))
    return b"\n".join(lines) + b"\n" + text


def nested(text, rng):
    """One kind of bracket, or of line, thousands deep."""
    depth = rng.choice((31, 32, 33, 100, 1000, 20_000))
    deep = rng.choice((b"[" * depth, b"{a: " * depth, b"- " * depth, b"? " * depth,
                       b"[" * depth + b"]" * depth,
                       b"".join(b" " * i + b"a:\n" for i in range(min(depth, 600)))))
    at = rng.randrange(len(text))
    return text[:at] + b"\n" * rng.randint(0, 1) + deep + text[at:]


def huge(text, rng):
    """One scalar, key, list or comment of up to 2 MB."""
    size = rng.choice((1 << 12, 1 << 17, (1 << 18) - len(text) - 99, 1 << 18, 1 << 21))
    unit = rng.choice((b"a", b"9", b"a ", b"\n", b"a\n", b"- a\n", b"a, ", b"[],", b"\xc3\xa9",
                       b"\\x41", b"' ", b'"', b"# ", b"%41", b"a: b\n"))
    opened = rng.choice((b"", b"'", b'"', b"|\n  ", b">\n  ", b"[", b"{", b"# ", b"\n"))
    at = text.index(b": ", rng.randrange(len(text) // 2)) + 2
    return text[:at] + opened + unit * (size // len(unit)) + text[at:]


KINDS = (bytes_flipped, truncated, lines_shuffled, spliced, retyped, alias_bomb, nested, huge)


def mutants(sources, count):
    """`count` damaged texts of `sources` (bytes), each kind in turn; the same ones every time."""
    rng = random.Random(5)
    for i in range(count):
        yield bytes(KINDS[i % len(KINDS)](bytearray(rng.choice(sources)), rng))


def main():
    from aprnb.proof.contracts.document import parse_document
    from aprnb.proof.faults.fault import fault
    from aprnb.proof.hardware import SIDES
    from aprnb.proof.contracts.rules import check
    from memory import peak_mib
    root = Path(__file__).parents[1]
    sources = [Path(path).read_bytes() for path in sys.argv[1:]]
    whole = [parse_document(text, "x") for text in sources]
    registry = {id: fault(id, "", "", **dict.fromkeys(SIDES, [("file", "old", "new")]))
                for document in whole for test in document.root.maps("falsification_tests")
                for id in test.get("aprnb").get("faults").plain()}
    assert not any(check(document, root, registry) for document in whole)
    sizes = [len(text) for text in sources]

    def findings_of(text):
        """(findings, seconds of the processor by the text's size, at least that of a sound one)."""
        began = time.process_time()
        findings = check(parse_document(text, "x.yaml"), root, registry)
        return findings, (time.process_time() - began) / max(len(text), *sizes)
    sound = max(min(findings_of(text)[1] for _ in range(5)) for text in sources)
    before, slowest, broken = peak_mib(), 0.0, 0
    for text in mutants(sources, MUTANTS):
        findings, took = findings_of(text)
        if took > slowest:  # twice: a pause of the garbage collector is not the text's
            slowest = max(slowest, min(took, findings_of(text)[1]))
        broken += bool(findings)
        "\n".join(map(str, findings)).encode()  # what is said can be printed
    print(MUTANTS, round(slowest / sound), peak_mib() - before, broken)


if __name__ == "__main__":
    main()
