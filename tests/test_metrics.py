"""Records and the files they go to: whole lines or none, cut exactly, nothing invented."""
import math
import os
import resource
import xml.etree.ElementTree as ET

import pytest

from aprnb.backend import open_backend
from aprnb.errors import CheckError, StorageError
from aprnb.train.metrics import FIELDS, JsonLines, event, step_record
from aprnb.train.plot import MAX_POINTS, bucket_means, loss_svg, nice_ticks
from tolerance import gamma

SVG = "{http://www.w3.org/2000/svg}"


# ---------------------------------------------------------------- records

def test_a_record_has_the_fields_of_the_interface_and_null_for_what_is_unknown():
    record = step_record(7, 2.5, 0.9, 3e-4, 1024, 0.5, 0.01, open_backend("cpu"))
    assert tuple(record) == FIELDS
    assert record["lr"] == 3e-4 and record["tokens_per_sec"] == 2048
    assert record["wall_ms"] == 500 and record["data_wait_ms"] == 10
    assert record["gpu_util_pct"] is None and record["mfu"] is None
    assert record["mem_peak_bytes"] > 1 << 20


def test_events_say_what_when_and_at_which_step():
    made = event("new_pass", 12, pass_number=1)
    assert made["event"] == "new_pass" and made["step"] == 12 and made["pass_number"] == 1
    assert made["time"].endswith("+00:00")


# ---------------------------------------------------------------- files

def test_lines_are_appended_and_read_back(tmp_path):
    log = JsonLines(tmp_path / "m.jsonl")
    for i in range(3):
        log.append({"i": i})
    assert log.read() == [{"i": 0}, {"i": 1}, {"i": 2}]
    assert log.size == (tmp_path / "m.jsonl").stat().st_size


def test_a_resumed_file_is_cut_to_the_bytes_of_its_state(tmp_path):
    log = JsonLines(tmp_path / "m.jsonl")
    log.append({"i": 0})
    kept = log.size
    log.append({"i": 1})
    log.close()
    again = JsonLines(tmp_path / "m.jsonl", kept)
    again.append({"i": 2})
    assert again.read() == [{"i": 0}, {"i": 2}]


def test_a_file_shorter_than_its_state_is_refused(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(b'{"i": 0}\n')
    with pytest.raises(CheckError, match="holds 9 bytes"):
        JsonLines(tmp_path / "m.jsonl", 100)


def test_a_torn_last_line_goes_away(tmp_path):
    (tmp_path / "e.jsonl").write_bytes(b'{"i": 0}\n{"i": ')
    log = JsonLines(tmp_path / "e.jsonl")
    log.append({"i": 1})
    assert log.read() == [{"i": 0}, {"i": 1}]


def test_nan_is_never_written(tmp_path):
    log = JsonLines(tmp_path / "m.jsonl")
    with pytest.raises(ValueError):
        log.append({"loss": math.nan})
    assert log.size == 0


def test_a_line_that_does_not_fit_is_taken_back(tmp_path):
    """A limit on the file's size cuts the write in the middle of the line."""
    path = tmp_path / "m.jsonl"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log = JsonLines(path)
            log.append({"i": 0})
            resource.setrlimit(resource.RLIMIT_FSIZE, (log.size + 5, resource.RLIM_INFINITY))
            log.append({"i": 1, "long": "x" * 50})
        except StorageError as error:
            code = 0 if str(path) in str(error) else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_bytes() == b'{"i": 0}\n'


# ---------------------------------------------------------------- loss.svg

def read_svg(train, validation, ln_vocab=math.log(4096)):
    return ET.fromstring(loss_svg(train, validation, ln_vocab, "a & b <run>"))


def points(root, name):
    line = next(e for e in root.iter(f"{SVG}polyline") if e.get("id") == name)
    return [tuple(map(float, p.split(","))) for p in line.get("points").split()]


def texts(root):
    return [e.text for e in root.iter(f"{SVG}text")]


def test_the_picture_holds_both_curves_axes_and_ln_v():
    train = [(s, 8.3 - s / 40) for s in range(200)]
    root = read_svg(train, [(100, 6.0), (200, 3.5)])
    assert len(points(root, "train")) == 200 and len(points(root, "validation")) == 2
    said = texts(root)
    assert "step" in said and "loss (nats per token)" in said and "a & b <run>" in said
    assert any(t.startswith("ln V = 8.318") and "outside" not in t for t in said)
    assert any(e.get("stroke-dasharray") for e in root.iter(f"{SVG}line"))


def test_a_lower_loss_is_drawn_lower_and_everything_is_inside():
    root = read_svg([(0, 8.0), (1, 4.0), (2, 6.0)], [(3, 5.0)])
    y = [p[1] for p in points(root, "train")]
    assert y[0] < y[2] < y[1]
    for x, y in points(root, "train") + points(root, "validation"):
        assert 64 <= x <= 816 and 48 <= y <= 404


def test_a_far_ln_v_is_named_and_does_not_squeeze_the_curve():
    root = read_svg([(s, 2.5 + 0.05 * (s % 3)) for s in range(20)], [(20, 2.5)])
    assert any("outside this picture" in t for t in texts(root))
    y = [p[1] for p in points(root, "train")]
    assert max(y) - min(y) > 100  # pixels


@pytest.mark.parametrize("train, validation", [
    ([], []), ([(0, 3.0)], []), ([], [(1, 3.0)]), ([(0, 3.0), (1, 3.0)], [(2, 3.0)]),
    ([(0, 1e9)], []), ([(0, 1e-7)], [])])
def test_few_or_equal_points_are_a_picture_too(train, validation):
    text = ET.tostring(read_svg(train, validation), encoding="unicode")
    assert "nan" not in text and "inf" not in text


def test_long_runs_are_averaged_in_buckets():
    train = [(s, float(s % 2)) for s in range(100_000)]
    curve = bucket_means(train, MAX_POINTS)
    assert len(curve) <= MAX_POINTS
    assert sum(loss for _, loss in curve) / len(curve) == pytest.approx(0.5, abs=1e-2)


def test_ticks_are_round_and_enclose():
    assert nice_ticks(0, 100, 5) == [0, 20, 40, 60, 80, 100]
    assert nice_ticks(2.41, 2.59, 4) == pytest.approx([2.4, 2.45, 2.5, 2.55, 2.6], rel=gamma(8))
