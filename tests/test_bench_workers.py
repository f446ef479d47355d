"""A bench whose workers print, die, or run out of memory; the tool that tries peers.

The workers are real processes; a sitecustomize on their path, as a site may have one, makes them
say or do what no bench asked for.
"""
import json
import os
import signal
import sys
from pathlib import Path

import processes
import pytest
from runs import aprnb_here, refused

from aprnb.bench import step
from aprnb.bench.turns import started
from aprnb.bench.variants import variants_of
from aprnb.errors import AprnbError, DeviceMemoryError

ROOT = Path(__file__).parents[1]
SETTINGS = {"device": "cpu", "precision": "fp32", "residual": "fp32", "preset": "tiny",
            "recompute": "none", "batch": 1, "length": 8}
STEP = ("bench", "step", "--cases", "1x8", "--preset", "tiny", "--device", "cpu", "--rounds", 1)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A function that gives every Python process started from now on these lines to run first."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return (folder / "sitecustomize.py").write_text


# ---------------------------------------------------------------- words and answers

def test_what_a_site_prints_is_no_answer(site):
    site("import atexit\nprint('a site says hello')\n"
         "atexit.register(print, 'a site says goodbye')\n")
    result = aprnb_here(*STEP, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["rows"][0]["ours"]["median"] > 0
    assert "a site says hello\na site says goodbye" in result.stderr  # passed on, not lost


def test_an_interpreter_that_prints_is_asked_for_torch_all_the_same(site, tmp_path):
    site("print('a site says hello')\n")
    for code in (64, 65):
        python = tmp_path / f"python{code}"
        python.write_text(f"#!/bin/sh\necho noise; exit {code}\n")
        python.chmod(0o755)
        if code == 64:
            step.require_torch(str(python))
        else:
            with pytest.raises(AprnbError, match="--against: torch not installed"):
                step.require_torch(str(python))
    result = aprnb_here("bench", "step", "--against", "torch", "--torch-python", sys.executable)
    assert "hello" not in result.stderr


# ---------------------------------------------------------------- ends

@pytest.mark.parametrize("number, code, words", [
    (signal.SIGKILL, 12, "ours was ended by SIGKILL, probably out of memory"),
    (signal.SIGSEGV, 1, "ours was ended by SIGSEGV"),
    (signal.SIGRTMIN, 1, "ours was ended by SIGRTMIN")])
def test_a_worker_that_dies_while_idle_is_named_with_its_end(number, code, words, site,
                                                             monkeypatch):
    site("import sys\nprint('the last thing it said', file=sys.stderr)\n")
    take_turns = step._take_turns

    def die_first(sides, rounds):
        process = sides["ours"].worker.process
        process.send_signal(number)
        process.wait()
        take_turns(sides, rounds)
    monkeypatch.setattr(step, "_take_turns", die_first)
    result = aprnb_here(*STEP)
    refused(result, code, words, "the last thing it said")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("ask", [lambda worker: worker.steps(1), lambda worker: worker.look()])
def test_every_question_to_a_dead_worker_says_how_it_ended(ask):
    with pytest.raises(DeviceMemoryError, match="torch eager was ended by SIGKILL"):
        with started("torch eager", "step_ours", SETTINGS) as worker:
            worker.answer()
            worker.process.kill()
            worker.process.wait()
            ask(worker)


def test_a_child_that_outlives_a_worker_does_not_hide_its_end(site, tmp_path):
    """It holds the pipes open, so that no end of file tells."""
    site("import os, time\nif 'aprnb' in ' '.join(__import__('sys').orig_argv):\n"
         "    child = os.fork()\n    if child == 0:\n        time.sleep(60); os._exit(0)\n"
         f"    with open({str(tmp_path / 'child')!r}, 'w') as file:\n"
         "        file.write(str(child))\n    os._exit(3)\n")
    with pytest.raises(AprnbError, match="ours ended with exit code 3; it said nothing"):
        with started("ours", "step_ours", SETTINGS, patience_s=30) as worker:
            worker.answer()
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


# ---------------------------------------------------------------- memory

@pytest.mark.parametrize("error, whose", [
    ("MemoryError('Unable to allocate 9 GiB')", "host"),
    ("OSError(12, 'Unable to allocate 9 GiB')", "host"),
    ("RuntimeError('allocator: Unable to allocate 9 GiB: can\\'t allocate memory')", "host"),
    ("type('OutOfMemoryError', (RuntimeError,), {})('CUDA: Unable to allocate 9 GiB')", "device")])
def test_a_worker_out_of_memory_ends_the_bench_as_such(error, whose, site, monkeypatch):
    site(f"import aprnb.bench.workload as w\ndef batches(*_):\n    raise {error}\n"
         "w.batches = batches\n")
    monkeypatch.setenv("PYTHONPATH", os.environ["PYTHONPATH"] + os.pathsep + str(ROOT))
    refused(aprnb_here(*STEP), 12, f"ours: out of {whose} memory", "Unable to allocate 9 GiB")


# ---------------------------------------------------------------- the tool

def tried(*arguments):
    return processes.run([sys.executable, ROOT / "tools/try_peers.py", *map(str, arguments)])


@pytest.mark.parametrize("arguments, code, words", [
    (["--cases", "16"], 2, "--cases '16': need [PRESET/]sequences x tokens"),
    (["--cases", "0x4"], 2, "--cases '0x4'"), (["--cases", "1x8,"], 2, "--cases ''"),
    (["--cases", "huge/1x8"], 2, "presets: qwen2.5-0.5b"), (["--cases", "/1x8"], 2, "--cases"),
    (["--cases", "tiny/1x8,tiny/1x8"], 2, "stands twice"),
    (["--variants", "own,own"], 2, "own and own are one variant"),
    (["--variants", ""], 2, "no word ''"),
    (["--beside", "0"], 2, "--beside 0: need at least 1"), (["--rounds", "-1"], 2, "--rounds -1"),
    (["--limit", "0"], 2, "--limit 0"), (["--limit", "nan"], 2, "--limit nan"),
    (["--turn", "inf"], 2, "--turn inf"), (["--device", "auto"], 2, "--device auto: need cpu or")])
def test_arguments_of_the_tool_are_checked_before_anything_starts(arguments, code, words,
                                                                  tmp_path):
    done = tried(tmp_path / "out.jsonl", *arguments)
    refused(done, code, words)
    assert done.stdout == "" and not (tmp_path / "out.jsonl").exists()


def test_an_output_of_the_tool_that_takes_no_line_is_refused(tmp_path):
    refused(tried(tmp_path), 7, "is a folder")
    refused(tried(tmp_path / "no/out.jsonl"), 3, "no such folder")
    for text in ("case,ms\n", '{"a": 1}'):  # the second lacks its end
        (tmp_path / "out").write_text(text)
        refused(tried(tmp_path / "out"), 5, "no file of JSON lines")
        assert (tmp_path / "out").read_text() == text


@pytest.mark.parametrize("end, code, words", [
    ("kill -9 $$", 12, "torch own was ended by SIGKILL, probably out of memory"),
    ("exit 3", 1, "torch own ended with exit code 3; it last said: noise | boom")])
def test_trials_that_all_fail_are_a_failure(end, code, words, tmp_path):
    python, out = tmp_path / "python", tmp_path / "out.jsonl"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 64\necho noise; echo boom >&2; {end}\n')
    python.chmod(0o755)
    done = tried(out, "--cases", "tiny/1x8", "--variants", "own,plain", "--device", "cpu",
                 "--precision", "fp32", "--torch-python", python, "--beside", 2)
    refused(done, code, "tiny/1x8: no variant has figures")
    first, second = map(json.loads, out.read_text().splitlines())
    assert words in first["error"] and first["last_words"] == ["noise", "boom"]
    assert second["variant"] == "plain"


def test_best_may_be_named_too_but_nothing_else_twice():
    assert [v.name for v in variants_of(["best", "own", "plain"], SETTINGS)] == ["own", "plain"]
    for twice in (["best", "best"], ["plain", "plain"], ["own", "best", "own"]):
        with pytest.raises(AprnbError, match="are one variant"):
            variants_of(twice, SETTINGS)
