"""Signals: what the first, a second of the same event and a later one do, and who may hide them."""
import os
import signal
import subprocess
import sys

import processes
import pytest
from corpora import small_tokenizer

from aprnb import interrupt
from aprnb.cli import main
from aprnb.data.tokenizer import from_json
from aprnb.errors import Interrupted
from aprnb.interrupt import Interrupt


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


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


def test_hup_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


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
