"""The benches: figures from samples, counted bytes and operations, the record, turns, tables.

What needs a GPU is marked; the rest judges everything that a wrong figure could come from without.
"""
import csv
import importlib.util
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest
from runs import aprnb_here

from aprnb.bench import cases, record, timing
from aprnb.bench.rows import Row, geometric_mean, summary
from aprnb.bench.turns import started
from aprnb.config import PRESETS
from aprnb.dtypes import BF16, F32
from aprnb.errors import AprnbError, CheckError, NotFoundError, StorageError, UsageError
from tolerance import FUNCTION, gamma

has_torch = importlib.util.find_spec("torch") is not None
ROOT = Path(__file__).parents[1]
TINY = PRESETS["tiny"].with_(vocab_size=64)


def row(case="o/fwd/8", ours=(10.0, 12.0, 11.0), unit="TFLOP/s", **peers):
    return Row("gemm", case, unit, "a GPU", list(ours), {n: list(v) for n, v in peers.items()})


# ---------------------------------------------------------------- statistics

def test_median_and_half_the_interquartile_range():
    assert timing.median([1, 9, 5]) == 5
    assert timing.spread([10, 12, 14, 16, 18]) == pytest.approx((16 - 12) / 2 / 14, rel=gamma(8))
    assert timing.spread([7]) == 0


def test_every_contestant_is_first_equally_often():
    orders = [timing.rotated(3, n) for n in range(3)]
    assert orders == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]


class StepClock:
    """A clock that only work moves: what a contest makes of known times."""

    now = 0.0

    def mark(self):
        return self.now

    def elapsed(self, start, end):
        return end - start

    def wait(self):
        pass


def test_a_contest_divides_by_calls_and_launches_and_drops_the_warm_up():
    clock, seen = StepClock(), []

    def work(name, ms):
        def call():
            clock.now += ms * (3 if seen.count(name) < 2 else 1)  # slow until it is warm
            seen.append(name)
        return call
    fast, slow = timing.contest(clock, [timing.Contestant(work("fast", 1.0), launches=4),
                                        timing.Contestant(work("slow", 50.0))], rounds=2)
    assert fast == [0.25, 0.25] and slow == [50.0, 50.0]
    assert seen.count("fast") == 2 + 3 * 10  # 30 ms a turn, judged at 3 ms a call
    assert seen.count("slow") == 2 + 3


def test_the_host_clock_measures_a_pause():
    """Pauses that are as long as the machine makes them: the figures lie between the shortest and
    the longest."""
    took = []

    def pause():
        began = time.perf_counter()
        time.sleep(0.01)
        took.append((time.perf_counter() - began) * 1e3)
    began = time.perf_counter()
    (figures,) = timing.contest(timing.HostClock(), [timing.Contestant(pause)], rounds=3,
                                turn_ms=20)
    whole = (time.perf_counter() - began) * 1e3
    assert len(figures) == 3 and all(10 <= min(took) <= ms for ms in figures)
    assert sum(figures) <= whole


# ---------------------------------------------------------------- counting

def test_products_have_the_shapes_and_operations_of_the_layers():
    table = cases.products()
    assert len(table) == 31
    gate_up = table["gate_up/fwd/16384"]
    assert gate_up.shapes == ((16384, 9728), (16384, 896), (9728, 896))
    assert table["down/dgrad/2048"].shapes == ((2048, 4864), (2048, 896), (896, 4864))
    assert table["head/wgrad/2048"].shapes == ((151936, 896), (2048, 151936), (2048, 896))
    assert table["cube/8192"].flops == 2 * 8192 ** 3
    layers = sum(2 * p.M * p.N * p.K for name, p in table.items()
                 if name.endswith("/16384") and not name.startswith("head")) * 24
    assert layers == pytest.approx(35.2e12, rel=0.01)  # as reckoned for the 16 x 1024 step


@pytest.mark.parametrize("name", ["qkv/fwd/2048", "o/dgrad/16384", "gate_up/wgrad/2048"])
def test_operands_fit_the_layout(name):
    p = cases.products()[name]
    c, a, b = (np.empty(s, "u1") for s in p.shapes)
    left, right = {"nt": (a, b.T), "nn": (a, b), "tn": (a.T, b)}[p.layout]
    assert (left.shape[0], right.shape[1]) == c.shape and left.shape[1] == right.shape[0] == p.K


def test_attention_counts_half_the_square():
    table = cases.attentions()
    assert len(table) == 20
    assert table["fwd/64/16x1024"].flops / 183e-6 == pytest.approx(164e12, rel=0.01)
    assert table["bwd/128/8x2048"].flops / 684e-6 == pytest.approx(377e12, rel=0.01)


def test_bytes_that_ops_move():
    table = cases.ops()
    R, C, F, n = 16384, 896, 4864, 494_032_768
    assert cases.parameters(cases.SHAPE) == n
    assert table["adamw/all"].moved == 30 * n + 16
    assert table["sum_of_squares/all"].moved == 4 * n + 4096
    assert table["swiglu_backward/16384"].moved == 10 * R * F
    assert table["add_rmsnorm_forward/16384"].moved == 8 * R * C + 4 * R + 2 * C
    assert table["embedding_backward/2048"].moved == 2048 * (10 * C + 4)
    assert table["cross_entropy/2048"].moved == 2048 * (4 * 151936 + 8) + 4


@pytest.mark.parametrize("name", [n for n, op in cases.ops(TINY, (8,)).items() if not op.home])
def test_arguments_are_those_that_the_op_takes(name):
    """Every case runs on the CPU at a small size, where the op checks the shapes."""
    from aprnb.backend import open_backend
    ops, op = open_backend("cpu", "fp32").ops, cases.ops(TINY, (8,))[name]

    def made(a):
        if not isinstance(a, cases.Array):
            return a
        if a.fill == "ids":
            return np.arange(a.shape[0], dtype=a.dtype)
        fill = np.ones(a.shape, F32) if a.fill == "normal" else np.full(a.shape, a.fill)
        return fill.astype(F32 if a.dtype == BF16 else a.dtype)

    arguments = [made(a) for a in op.arguments]
    getattr(ops, op.name)(*arguments)
    assert all(np.isfinite(a).all() for a in arguments if isinstance(a, np.ndarray))


def test_cases_are_selected_by_globs():
    names = {"o/fwd/8": 1, "o/dgrad/8": 2, "cube": 3}
    assert list(cases.select(names, "*/fwd/*, cube")) == ["o/fwd/8", "cube"]
    with pytest.raises(UsageError, match="o/fwd/8, o/dgrad/8, cube"):
        cases.select(names, "none")


# ---------------------------------------------------------------- rows

def test_a_ratio_is_the_median_over_rounds_and_above_one_where_ours_is_better():
    fast = row(ours=[10, 20, 30], cuBLAS=[10, 10, 10])
    assert fast.ratio("cuBLAS") == 2
    memory = row(unit="GiB", ours=[10], torch=[30])
    assert memory.ratio("torch") == 3


def test_the_peer_that_counts_is_the_hardest_to_beat():
    both = row(ours=[10], flash=[9], cuDNN=[12])
    assert both.best_peer() == "cuDNN"
    assert record.table_row(both)["ratio"] == "0.83333"
    assert set(both.as_json()["peers"]) == {"flash", "cuDNN"}


def test_a_summary_is_of_speeds():
    rows = [row("a", [2], x=[1]), row("b", [8], x=[1]), row("m", [1], "GiB", x=[100]), row("c")]
    assert geometric_mean([2, 8]) == pytest.approx(4, rel=gamma(8 * FUNCTION))
    whole = summary(rows)
    assert whole["geometric_mean"] == geometric_mean([2, 8]) and whole["worst_case"] == "a"
    assert summary([row()]) is None


@pytest.mark.parametrize("value, text", [(152345.6, "152350"), (0.98765432, "0.98765"),
                                         (3, "3"), (1e-7, "1e-07"), (28.8, "28.8")])
def test_figures_are_written_with_five_digits(value, text):
    assert record.short(value) == text


# ---------------------------------------------------------------- the record

def rows_of(path):
    return list(csv.DictReader(path.open()))


def test_a_row_measured_again_takes_the_older_ones_place(tmp_path):
    path = tmp_path / "bench.csv"
    kept = record.Record(path, "abc1234")
    kept.add(row("a", [1.0], cuBLAS=[2.0]))
    kept.add(row("b", [1.0]))
    record.Record(path, "def1234").add(row("a", [3.0], cuBLAS=[2.0]))
    assert path.read_text().splitlines()[0] == ("bench,case,unit,ours,spread,peer,peer_value,ratio,"
                                                "peer_how,device,commit,date")
    first, second = rows_of(path)
    assert (first["case"], first["ours"], first["ratio"], first["commit"]) == ("a", "3", "1.5",
                                                                               "def1234")
    assert (second["case"], second["peer"], second["ratio"]) == ("b", "", "")


def test_a_row_replaces_those_of_peers_that_lost_in_the_same_run(tmp_path):
    kept = record.Record(tmp_path / "bench.csv", "abc1234")
    for case, peers in (("a", {"x": [2.0]}), ("b", {}), ("a", {"y": [3.0]}), ("a", {"z": [1.0]})):
        kept.add(row(case, [1.0], **peers))
    kept.add(row("a", [1.0], x=[2.0], y=[4.0]))
    assert [(r["case"], r["peer"], r["peer_value"]) for r in rows_of(tmp_path / "bench.csv")] == [
        ("a", "y", "4"), ("b", "", ""), ("a", "z", "1")]


def test_another_peer_or_device_is_another_row(tmp_path):
    kept = record.Record(tmp_path / "bench.csv", "abc1234")
    kept.add(row("a", [1.0], x=[2.0]))
    kept.add(row("a", [1.0], y=[2.0]))
    kept.add(Row("gemm", "a", "TFLOP/s", "another GPU", [1.0], {"x": [2.0]}))
    assert len(rows_of(tmp_path / "bench.csv")) == 3


@pytest.mark.parametrize("content", ["", "name,value\n1,2\n",
                                     ",".join(record.COLUMNS) + "\ngemm,a\n",
                                     ",".join(record.COLUMNS) + "\ngemm,a,s,x,0,,,,,GPU,abc,day\n",
                                     *(",".join(record.COLUMNS) + f"\ngemm,a,s,{cells},,GPU,c,d\n"
                                       for cells in ("1,0,x,2,0", "1,0,x,2,-1", "1,0,x,nan,2",
                                                     "1,0,x,2,nan", "1,0,x,2,inf", "-1,0,,,",
                                                     "1,-1,,,", "1,0,x,2,", "1,0,,2,2", "0,0,,,")),
                                     "\udcff\udcfe"])
def test_a_file_that_is_no_record_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "bench.csv"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(CheckError, match="bench.csv"):
        record.Record(path, "abc1234")
    assert path.read_text(errors="surrogateescape") == content
    table = processes.run([sys.executable, ROOT / "tools/bench_table.py", path])
    assert table.returncode == 5 and table.stderr.count("\n") == 1


def test_a_record_without_a_folder_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(NotFoundError):
        record.Record(tmp_path / "missing/bench.csv", "abc1234")
    result = aprnb_here("bench", "step", "--record", tmp_path / "missing/bench.csv", "--device",
                        "cpu", "--preset", "tiny", "--cases", "1x8")
    assert result.returncode == 3 and result.stdout == ""


def test_a_record_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path,
                                                                               monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(record.tempfile, "TemporaryFile", refuse)
    with pytest.raises(StorageError, match="bench.csv: cannot be written: Permission denied"):
        record.Record(tmp_path / "bench.csv", "abc1234")


@pytest.mark.parametrize("where, said", [
    ({"commit": "0123456789abcdef", "tree_clean": True}, "0123456789"),
    ({"commit": "0123456789abcdef", "tree_clean": False}, "0123456789+"),
    ({"commit": "0123456", "tree_clean": None}, "0123456")])
def test_rows_name_the_commit_and_whether_the_code_differs(where, said):
    assert record.label(where) == said


def test_what_is_no_commit_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--commit 'today': need a commit's hash"):
        record.Record(tmp_path / "bench.csv", "today")


# ---------------------------------------------------------------- tables

def test_tables_are_made_from_the_record(tmp_path):
    kept = record.Record(tmp_path / "bench.csv", "abc1234")
    for case, ratio in (("o/fwd/2048", 2), ("o/dgrad/2048", 8), ("o/fwd/16384", 1)):
        kept.add(row(case, [700.0 * ratio], cuBLAS=[700.0]))
    kept.add(Row("step", "4x512", "tokens/s", "a GPU", [100_000.0], {"torch": [50_000.0]},
                 {"torch": "plain; torch 2.11.0"}))
    kept.add(Row("step", "4x512/memory", "GiB", "a GPU", [5.0]))
    done = processes.run([sys.executable, ROOT / "tools/bench_table.py", tmp_path / "bench.csv"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("### ") == 3
    assert "### gemm 2048 on a GPU" in done.stdout
    assert "Geometric mean of 2 ratios 4.000, lowest 2.000." in done.stdout
    assert ("| 4x512 | 100,000 tokens/s | 0.0 % | torch | 50,000 | 2 | plain; torch 2.11.0 | "
            "abc1234 |" in done.stdout)
    missing = processes.run([sys.executable, ROOT / "tools/bench_table.py", tmp_path / "no.csv"])
    assert missing.returncode == 3 and missing.stderr.startswith("error: ")


# ---------------------------------------------------------------- steps on the CPU

def test_a_step_bench_reports_speed_memory_and_start(tmp_path):
    path = tmp_path / "bench.csv"
    result = aprnb_here("bench", "step", "--cases", "1x8,2x4", "--preset", "tiny", "--device",
                        "cpu", "--rounds", 2, "--json", "--record", path, "--commit", "abc1234")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["schema"] == "aprnb-bench-v1" and report["device"] == "cpu"
    assert [r["case"] for r in report["rows"]] == [
        f"{size}/tiny{about}" for size in ("1x8", "2x4") for about in ("", "/memory", "/start")]
    speed, memory, start = report["rows"][:3]
    assert len(speed["ours"]["rounds"]) == 2 and speed["ours"]["median"] > 0
    assert speed["sides"]["ours"]["loss"] == pytest.approx(math.log(4096), rel=0.2)
    assert 0.01 < memory["ours"]["median"] < 4 and 0 < start["ours"]["median"] < 60
    assert [r["unit"] for r in rows_of(path)[:3]] == ["tokens/s", "GiB", "s"]


def test_a_case_names_what_is_not_as_usual():
    from aprnb.bench.step import STANDARD, _departures
    usual = {"preset": STANDARD, "precision": "bf16", "device": "cuda:1", "recompute": "none",
             "residual": "bf16"}
    assert list(_departures(usual)) == []
    assert list(_departures(usual | {"residual": "fp32"})) == ["residual-fp32"]
    changed = usual | {"preset": "tiny", "precision": "fp32", "residual": "fp32",
                       "recompute": "ffn"}
    assert list(_departures(changed)) == ["tiny", "fp32", "recompute-ffn"]


@pytest.mark.parametrize("arguments, code, words", [
    (["step", "--preset", "huge"], 2, "qwen2.5-0.5b"),
    (["step", "--cases", "0x4"], 2, "16x1024, 4x512"),
    (["step", "--device", "auto"], 2, "--device auto: need cpu or cuda or cuda:N"),
    (["step", "--device", "cuda:16"], 2, "need cpu or cuda or cuda:N with N in 0..15"),
    (["gemm", "--device", "auto"], 2, "need cuda or cuda:N"),
    (["attention", "--device", "auto"], 2, "need cuda or cuda:N"),
    (["memory", "--device", "cudax"], 2, "--device cudax: this bench measures a GPU; need cuda or"),
    (["step", "--cases", "1x8,1x8", "--device", "cpu"], 2, "'1x8' stands twice"),
    (["step", "--cases", "1x8,16x1025*", "--device", "cpu"], 2, "'16x1025*' matches none"),
    (["gemm", "--cases", "cube*,no such"], 2, "'no such' matches none"),
    (["step", "--against", "torch", "--torch-variant", "own,own", "--device", "cpu"], 2,
     "own and own are one variant"),
    (["step", "--against", "torch", "--torch-variant", "own+tf32,tf32+own", "--device", "cpu"], 2,
     "tf32+own and own+tf32 are one variant"),
    (["step", "--against", "torch", "--torch-python", "/bin/false"], 2,
     "--torch-python /bin/false: asked for its packages it ended with exit code 1"),
    (["gemm", "--cases", "nothing"], 2, "qkv/fwd/16384"),
    (["gemm", "--device", "cpu"], 2, "--device cpu"),
    (["gemm", "--device", "cuda:15"], 14, "this bench measures a GPU"),
    (["gemm", "--device", "cuda:15", "--kernels", "sm_90"], 14, "this bench measures a GPU"),
    (["step", "--device", "cuda:15"], 14, "use another --device, such as cpu"),
    (["step", "--against", "torch", "--torch-python", "/nowhere/python"], 3, "/nowhere/python"),
    (["step", "--cases", "1x5000", "--preset", "tiny", "--device", "cpu"], 6, "1024 positions"),
    pytest.param(["step", "--against", "eager"], 9, "torch and transformers",
                 marks=pytest.mark.skipif(has_torch, reason="torch is installed")),
])
def test_what_cannot_be_measured_is_said_at_once(arguments, code, words):
    result = aprnb_here("bench", *arguments)
    assert result.returncode == code and words in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_auto_is_no_device_of_a_bench():
    """Rows are named after the device that was asked for: auto would name two by one name."""
    from aprnb.bench.devices import require
    require("cpu", "cpu", "cuda")
    require("cuda:1", "cuda")
    for kinds in (("cpu", "cuda"), ("cuda",)):
        with pytest.raises(UsageError, match="--device auto: .*cuda or cuda:N"):
            require("auto", *kinds)


def test_every_bench_is_listed_with_its_whole_purpose():
    result = aprnb_here("bench", "--help")
    assert result.returncode == 0 and "..." not in result.stdout.replace("[ARGS]...", "")


def test_a_worker_that_ends_is_an_error_and_leaves_no_process():
    settings = {"device": "cpu", "precision": "fp32", "preset": "no such preset"}
    with pytest.raises(AprnbError, match="ours ended with exit code 1"):
        with started("ours", "step_ours", settings) as worker:
            worker.answer()
    assert worker.process.returncode == 1


# ---------------------------------------------------------------- on a GPU

@pytest.mark.gpu
def test_a_graph_of_many_launches_takes_many_times_as_long():
    from aprnb.bench.gpu import GpuBench, open_gpu
    from aprnb.kernels.cuda import copy_in
    bench = GpuBench(open_gpu("cuda", "auto"), None, rounds=3)
    target, source = (bench.arrays.normal((1 << 26,)) for _ in range(2))
    once = bench.ours(lambda: copy_in(target, source, bench.stream))
    twice = bench.ours(lambda: [copy_in(target, source, bench.stream) for _ in range(2)], 2)
    a, b = (timing.median(rates) for rates in bench.rates([once, twice], 2 * target.nbytes))
    assert 0.9 < a / b < 1.1 and 100 < a < 10_000  # GB/s


@pytest.mark.gpu
def test_arrays_hold_what_their_description_says():
    from aprnb.bench.gpu import PATTERN, Arrays, open_gpu
    backend = open_gpu("cuda", "auto")
    arrays = Arrays(backend.device)
    wide = backend.download(arrays.normal((2, PATTERN))).astype(np.float32)
    assert abs(wide.mean()) < 0.01 and abs(wide.std() - 1) < 0.01
    ids = backend.download(arrays.make(cases.Array((5,), cases.INT, fill="ids", below=9)))
    assert len(set(ids)) == 5 and max(ids) < 9
    assert (backend.download(arrays.make(cases.Array((3,), F32, fill=0.5))) == 0.5).all()


@pytest.mark.gpu
@pytest.mark.parametrize("arguments", [
    ["gemm", "--cases", "o/*/2048"], ["attention", "--cases", "*/64/4x512"],
    ["memory", "--cases", "*norm*/2048,rope*/2048,cross_entropy/2048"]])
def test_a_bench_runs(arguments):
    result = aprnb_here("bench", *arguments, "--rounds", 2, "--json")
    assert result.returncode == 0, result.stderr
    assert all(r["ours"]["median"] > 0 for r in json.loads(result.stdout)["rows"])
