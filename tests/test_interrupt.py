"""Signals: what the first, a second of the same event and a later one do, and who may hide them."""
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import processes
import pytest
from corpora import small_tokenizer

from aprnb import interrupt
from aprnb.cli import main
from aprnb.data.tokenizer import from_json
from aprnb.errors import Interrupted
from aprnb.interrupt import NUDGE, SIGNALS, Interrupt


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def goes_on():
    """Nothing in here stops at once; pytest would take that for a Ctrl-C of its own."""
    try:
        yield
    except Interrupted as error:
        pytest.fail(str(error))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2",
                                  "SIGXCPU"])
def test_every_signal_asks_an_armed_run_and_stops_any_other_program(name):
    number, unheard = getattr(signal, name), []
    before = signal.signal(number, lambda *_: unheard.append(name))
    try:
        with Interrupt() as armed:
            armed.arm()
            send(number)
            assert (armed.requested, unheard) == (name, [])
        with pytest.raises(Interrupted, match=f"{name}; nothing") as stopped:
            with Interrupt():
                send(number)
        assert stopped.value.exit_code == 130
    finally:
        signal.signal(number, before)


def test_signals_within_a_second_are_one_event_and_a_later_one_stops_at_once(monkeypatch):
    now = 0.0
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: now)
    with pytest.raises(Interrupted, match=r"twice \(SIGTERM, then SIGINT\): .*lost: 7 steps"):
        with Interrupt() as armed:
            armed.at_stake = lambda: "7 steps"
            armed.arm()
            for now in (100.0, 100.5, 100.99):
                send(signal.SIGTERM, signal.SIGHUP)
            assert armed.requested == "SIGTERM"
            now = 101.5
            send(signal.SIGINT)
            raise AssertionError("it went on")


@pytest.mark.parametrize("early", [True, False])
def test_where_nothing_can_be_lost_a_signal_is_answered_at_once(early):
    """Also one that came just before."""
    with Interrupt() as armed:
        armed.arm()
        with pytest.raises(Interrupted):
            if early:
                send(signal.SIGUSR1)
            with armed.at_once():
                send(signal.SIGUSR1)
                raise AssertionError("it went on")
        assert armed.requested == "SIGUSR1"


IGNORED = """
import os, signal
from aprnb.interrupt import SIGNALS, Interrupt
signal.signal({number}, signal.SIG_IGN)
with Interrupt() as here:
    os.kill(os.getpid(), {number})
    here.arm()
    os.kill(os.getpid(), next(each for each in SIGNALS if each != {number}))
    print("asked by", here.requested)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_what_was_ignored_stays_ignored(number):
    """SIGHUP under nohup, SIGINT in a background job of a script; the others still ask."""
    done = processes.run([sys.executable, "-c", IGNORED.format(number=int(number))])
    other = next(each for each in SIGNALS if each != number)
    assert done.stdout == f"asked by {signal.Signals(other).name}\n", done.stderr


def test_minutes_are_heard_where_the_signal_that_tells_them_was_ignored():
    before = signal.signal(NUDGE, signal.SIG_IGN)
    try:
        with Interrupt() as here:
            here.arm()
            here.limit(1e-4)
            while here.requested is None:  # the limit of a test ends it
                time.sleep(0.001)
            assert here.requested == "--max-minutes 0.0001"
    finally:
        signal.signal(NUDGE, before)


def test_no_library_hides_the_stop(monkeypatch):
    """Code that turns every Exception into "a bad tokenizer" must not meet it, and a library that
    wraps what was raised in its callbacks does not change how the program ends."""
    import tokenizers
    text = small_tokenizer().text

    class Interrupted_while_it_loads:
        def from_str(self, text):
            send(signal.SIGTERM)
    monkeypatch.setattr("tokenizers.Tokenizer", Interrupted_while_it_loads())
    with pytest.raises(KeyboardInterrupt), Interrupt() as here:
        with pytest.raises(BaseException) as raised:
            from_json(text)
        assert raised.type is Interrupted and here.requested == "SIGTERM"
        raise raised.value
    with pytest.raises(BaseException) as raised:
        with Interrupt():
            try:
                send(signal.SIGTERM)
            except KeyboardInterrupt as error:
                raise ValueError("a callback failed") from error
    assert raised.type is Interrupted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_every_verb_ends_with_130_and_one_message(tmp_path, number):
    """Stopped where the corpus is to be encoded, before anything is in the output folder."""
    (tmp_path / "tokenizer.json").write_text(small_tokenizer().text)
    (tmp_path / "corpus.txt").write_text("text")
    program = ("import sys\n"
               "import aprnb.data.encode as encode\n"
               "from aprnb.cli import main\n"
               "def wait(*given, **named):\n"
               "    print('encoding', flush=True)\n"
               "    sys.stdin.read()\n"
               "encode.write_documents = wait\n"
               "main(sys.argv[1:])")
    with processes.started(
            [sys.executable, "-c", program, "tokenize", "encode-corpus", "--corpus",
             tmp_path / "corpus.txt", "--tokenizer", tmp_path / "tokenizer.json", "--output",
             tmp_path / "out"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == "encoding\n"
        p.send_signal(number)
        _, err = p.communicate()
    assert p.returncode == 130
    assert err.splitlines() == [f"error: interrupted by {number.name}; nothing half-written was "
                                "left"]
    assert sorted(os.listdir(tmp_path)) == ["corpus.txt", "tokenizer.json"]


@pytest.mark.parametrize("armed", [False, True])
def test_a_stop_that_is_swallowed_is_raised_again(capfd, armed):
    """Python drops what is raised in a callback of a weak reference, as the importer has them."""
    class Thing:
        pass
    thing, went_on = Thing(), False
    reference = weakref.ref(thing, lambda _: send(signal.SIGTERM))  # noqa: F841
    with pytest.raises(Interrupted), Interrupt() as interrupted:
        if armed:
            interrupted.arm()
        with interrupted.at_once():
            del thing
            threading.Event().wait(30)  # only if it is not raised again
            went_on = True
    assert not went_on
    assert "Traceback" not in capfd.readouterr().err


def test_a_stop_that_is_under_way_is_not_raised_again(monkeypatch):
    """What clears up takes its time."""
    monkeypatch.setattr(interrupt, "RAISE_AGAIN_S", 0.01)
    cleared = False
    with pytest.raises(Interrupted), Interrupt():
        try:
            send(signal.SIGTERM)
        finally:
            threading.Event().wait(0.2)
            cleared = True
    assert cleared


def test_the_kernel_repeats_xcpu_every_second_and_the_minutes_are_no_second_signal(monkeypatch):
    now = 100.0
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: now)
    with goes_on(), Interrupt() as armed:
        armed.arm()
        for now in (100.0, 102.0, 104.0):
            send(signal.SIGXCPU)
    with goes_on(), Interrupt() as armed:
        armed.arm()
        send(signal.SIGUSR2)
        now = 106.0
        armed._over("--max-minutes 1")
        assert armed.requested == "SIGUSR2"
    with Interrupt() as armed:
        armed.arm()
        with goes_on():
            armed._over("--max-minutes 1")
            now = 108.0
            send(signal.SIGTERM)
        assert armed.requested == "--max-minutes 1"
        now = 110.0
        with pytest.raises(Interrupted, match=r"twice \(SIGTERM, then SIGINT\)"):
            send(signal.SIGINT)


def test_the_rest_of_an_event_may_come_after_the_run():
    """SIGHUP behind SIGTERM must not cut the report short."""
    with goes_on(), Interrupt():
        with Interrupt() as run:
            run.arm()
            send(signal.SIGTERM)
        send(signal.SIGHUP)


def test_no_signal_reaches_a_process_that_is_not_to_decide():
    with interrupt.unasked():
        child = subprocess.Popen([sys.executable, "-SEc", "print(input())"], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for number in interrupt.SIGNALS:
        child.send_signal(number)
    assert child.communicate("it goes on\n") == ("it goes on\n", None)
    with pytest.raises(Interrupted), Interrupt():
        send(signal.SIGTERM)


def test_the_command_line_outside_the_main_thread_handles_no_signal():
    import threading
    codes = []

    def call():
        with pytest.raises(SystemExit) as end:
            main(["--version"])
        codes.append(end.value.code)
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_program_that_has_ended_is_killed_by_nothing():
    """The rest of an event, or a signal after the work: Python's own end takes a moment."""
    program = ("import os, signal, sys, threading\n"
               "from aprnb.cli import main\n"
               "class Late:\n"
               "    def __del__(self):\n"  # as the interpreter ends
               "        for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):\n"
               "            os.kill(os.getpid(), n)\n"
               "keep = Late()\n"
               "main()\n")
    result = processes.run([sys.executable, "-c", program, "--version"])
    assert (result.returncode, result.stderr) == (0, "")


def test_a_signal_after_the_run_does_not_take_its_report():
    with Interrupt() as program:
        with Interrupt() as run:
            run.arm()
        send(signal.SIGTERM)
        assert program.requested is None
