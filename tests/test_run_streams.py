"""Signals, and readers that go away: neither loses a step that was taken."""
import json
import os
import signal
import subprocess
import sys

import processes
import pytest
from runs import aprnb, arch, flags, text_shards, train


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with `data` and `config.json`."""
    folder = tmp_path_factory.mktemp("streams")
    text_shards(folder / "data")
    arch(folder / "config.json")
    return folder


# ---------------------------------------------------------------- signals

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_writes_a_state_and_ends_with_130(base, number):
    name = f"signal{int(number)}"
    command = [sys.executable, "-m", "aprnb", "pretrain",
               *flags(base, name, num_steps=100_000, steps_per_epoch=100_000), "--json"]
    with processes.started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True) as p:
        while not (line := p.stderr.readline()).startswith("step     3"):
            assert line, "the run ended"
        p.send_signal(number)
        out, _ = p.communicate()
    report = json.loads(out)
    assert (p.returncode, report["status"]) == (130, "INTERRUPTED")
    done = report["steps_recorded"]
    assert 3 <= done < 100_000
    assert os.listdir(base / name / "ckpt") == [f"state-{done:06d}.apr"]
    more = aprnb("pretrain", "--run-dir", base / name, "--resume", "--num-steps", done + 2,
                 "--json")
    assert more.returncode == 0, more.stderr
    assert json.loads(more.stdout)["steps_recorded"] == done + 2


def test_an_interrupt_before_the_first_step_leaves_nothing(base, monkeypatch):
    from aprnb.errors import Interrupted
    from aprnb.train import run

    def interrupted(*arguments, real=run.open_data_input):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)
    monkeypatch.setattr(run, "open_data_input", interrupted)
    with pytest.raises(Interrupted, match="before the first step") as raised:
        train(base, "early")
    assert raised.value.exit_code == 130 and not (base / "early").exists()


def test_nohup_lets_a_run_go_on(base):
    """SIGHUP that was ignored at the start stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        report = train(base, "nohup", lambda r: os.kill(os.getpid(), signal.SIGHUP), num_steps=3)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (report["status"], report["steps_recorded"]) == ("COMPLETED", 3)


# ---------------------------------------------------------------- readers that go away

@pytest.mark.parametrize("stream, more", [("stdout", []), ("stderr", ["--json"]),
                                          ("stdout", ["--json"])])
def test_a_reader_that_goes_away_does_not_end_the_run(base, stream, more):
    """As in `pretrain ... | head -n 3`; the document of --json is lost with its reader."""
    name = f"{stream}{len(more)}"
    command = [sys.executable, "-m", "aprnb", "pretrain", *flags(base, name), *more]
    with processes.started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True) as p:
        reader, other = (p.stdout, p.stderr) if stream == "stdout" else (p.stderr, p.stdout)
        if (stream, more) != ("stdout", ["--json"]):
            for _ in range(3):
                assert reader.readline()
        reader.close()
        rest = other.read()
        p.wait()
    assert p.returncode == 0, rest
    assert "Traceback" not in rest and "BrokenPipe" not in rest
    summary = json.loads((base / name / "summary.json").read_text())
    assert (summary["status"], summary["steps_recorded"]) == ("COMPLETED", 20)


def test_a_terminal_that_goes_away_does_not_end_the_run(base):
    """The pseudo-terminal of the bar is closed after its first output."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "aprnb", "pretrain", *flags(base, "gone")]
    with processes.started(command, stdout=theirs, stderr=subprocess.PIPE, text=True,
                           env={**os.environ, "TERM": "xterm"}) as p:
        os.close(theirs)
        os.read(ours, 100)
        os.close(ours)
        said = p.stderr.read()
        p.wait()
    assert p.returncode == 0 and "Traceback" not in said, said
    assert json.loads((base / "gone/summary.json").read_text())["status"] == "COMPLETED"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_streams_that_are_closed_at_the_start(base, closed, more):
    name = f"closed{len(more)}{closed.count('-')}{closed[:1]}"
    given = flags(base, name, num_steps=2, warmup_steps=5)  # warns
    result = processes.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "aprnb", "pretrain",
         *given, *more])
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    records = [json.loads(line) for line in open(base / name / "metrics.jsonl")]
    assert [r["step"] for r in records] == [0, 1]
    if closed == "2>&-":
        if more:
            assert json.loads(result.stdout)["status"] == "COMPLETED"
        assert "warning" not in result.stdout
