"""Damaged and lying .apr files: always one typed error, quickly, in little memory (R1, R2).

Exhaustive over every single-bit flip, every truncation, four values of every byte and every
swapped pair of bytes of small files; structure-aware random damage with right checksums; and
every integer field set to the values that wrap, under a limit on the address space.
"""
import random
import struct
import sys
import textwrap

import processes
import pytest
from apr_bytes import build, entry, fix, small
from campaign import TIMES
from shared import GOLDEN

from aprnb.errors import FormatError
from aprnb.formats.apr import read_apr
from aprnb.formats.rejections import FooterMismatch

WRAPPING = (0, 1, 2**31 - 1, 2**32 - 1, 2**32, 2**53, 2**60, 2**63, 2**64 - 64, 2**64 - 1)


@pytest.fixture
def verdict(tmp_path):
    """A function: bytes -> the error class they are refused with, or None."""
    path = tmp_path / "x.apr"

    def judge(blob):
        path.write_bytes(blob)
        try:
            read_apr(path).close()
        except FormatError as error:
            return type(error)
        return None
    return judge


def test_every_single_bit_flip_is_refused(verdict):
    for blob in (small(), (GOLDEN / "linreg.apr").read_bytes()):
        assert verdict(blob) is None
        bad = bytearray(blob)
        for bit in range(8 * len(blob)):
            bad[bit // 8] ^= 1 << bit % 8
            assert verdict(bad) is not None, f"bit {bit} of {len(blob)} bytes was not noticed"
            bad[bit // 8] ^= 1 << bit % 8


def test_every_truncation_and_every_byte_value_is_refused(verdict):
    blob = (GOLDEN / "tiny.apr").read_bytes()
    for length in range(len(blob)):
        assert verdict(blob[:length]) is not None, f"cut to {length} bytes"
    for at in range(len(blob)):
        for value in (0x00, 0x7F, 0x80, 0xFF):
            bad = blob[:at] + bytes((value,)) + blob[at + 1:]
            assert (verdict(bad) is None) == (bad == blob), f"byte {at} set to {value}"


def test_every_swapped_pair_of_index_entries_is_refused(verdict):
    entries = [entry(n, 7, (1,), 64 * i, 1) for i, n in enumerate("abcdefgh")]
    assert verdict(build(entries, bytes(512))) is None
    for i in range(8):
        for j in range(i):
            swapped = list(entries)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            assert verdict(build(swapped, bytes(512))) is not None


def test_random_damage_with_right_checksums_gives_typed_errors_only(verdict):
    rng = random.Random(3)
    blob = (GOLDEN / "tiny.apr").read_bytes()
    # where damage goes: metadata 35, index 35, header 20, data 10 per cent
    regions = [(64, 550)] * 35 + [(576, 832)] * 35 + [(4, 64)] * 20 + [(832, 1152)] * 10
    accepted = 0
    for _ in range(4000 * TIMES):
        bad = bytearray(blob)
        for _ in range(rng.randint(1, 4)):
            start, end = rng.choice(regions)
            at = rng.randrange(start, end)
            what = rng.random()
            if what < 0.5:
                bad[at] = rng.randrange(256)
            elif what < 0.8:
                bad[at:at + 8] = struct.pack("<Q", rng.choice(WRAPPING))
            else:
                other = rng.randrange(4, len(bad) - 20)
                bad[at:at + 16] = bad[other:other + 16]
        error = verdict(fix(bad))  # anything but a FormatError ends the test
        assert error is not FooterMismatch
        accepted += error is None
    assert 0 < accepted < 2000 * TIMES  # harmless changes, in payloads and strings, are legal


def test_lying_integers_are_refused_in_little_memory(tmp_path):
    """Every integer field of header and index at every wrapping value, 512 MiB of addresses."""
    blob = small()
    (tmp_path / "small.apr").write_bytes(blob)
    index = struct.unpack_from("<Q", blob, 24)[0]
    fields = [(8, "I"), (12, "Q"), (20, "I"), (24, "Q"), (32, "Q"), (index, "H")]
    fields += [(index + 12 + 8 * i, "Q") for i in range(4)]  # dimensions, offset, size
    script = textwrap.dedent(f"""
        import resource, struct, sys
        sys.path.insert(0, {str(GOLDEN.parents[1])!r})
        from apr_bytes import fix
        from memory import peak_mib
        from steps import Steps
        from aprnb.errors import FormatError
        from aprnb.formats.apr import read_apr
        resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
        blob = open("small.apr", "rb").read()
        judged = 0
        with Steps() as sound:
            read_apr("small.apr").close()
        for at, kind in {fields!r}:
            for value in {WRAPPING!r}:
                bad = bytearray(blob)
                struct.pack_into("<" + kind, bad, at, value % 2**(8 * struct.calcsize(kind)))
                judged += 1
                if bad == blob:
                    continue
                open("x.apr", "wb").write(fix(bad))
                with Steps() as steps:
                    try:
                        # fewer entries than the index holds are legal, but never silently
                        if not read_apr("x.apr").warnings:
                            print("accepted", at, value)
                    except FormatError:
                        pass
                assert steps.lines < 2 * sound.lines, (at, value)
        print(judged, peak_mib())
    """)
    done = processes.run([sys.executable, "-c", script], cwd=tmp_path,
                         env={"PATH": "", "PYTHONPATH": str(GOLDEN.parents[2]),
                              "OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout
    judged, peak = map(int, lines[0].split())
    assert judged == len(fields) * len(WRAPPING) and peak <= 64  # MiB
