"""Faults of how a run is stopped: signals, limits, gates that a resumed run forgets."""
from ..fault import fault

INTERRUPT = "aprnb/interrupt.py"
ERRORS = "aprnb/errors.py"
FRONT = "aprnb/cli/__init__.py"
GATES, LOOP, RUN = (f"aprnb/train/{part}.py" for part in ("gates", "loop", "run"))

STOPPING = [
    fault("warning-of-a-scheduler-unheard", "SIGUSR1 keeps its default, which kills",
          "ours: SLURM's --signal=USR1 left no state",
          cpu=[(INTERRUPT, '"SIGQUIT", "SIGUSR1",', '"SIGQUIT",')]),
    fault("two-signals-of-one-event-stop-at-once", "the second signal of a shutdown stops at once",
          "ours: 30 of 30 runs lost under systemd with SendSIGHUP",
          cpu=[(INTERRUPT, "now - self._first < SAME_EVENT_S", "now < self._first")]),
    fault("evaluation-deaf-to-signals", "a signal waits for the end of the evaluation",
          "ours: docker stop waits ten seconds",
          cpu=[(LOOP, "with self.interrupt.at_once():", "if True:")]),
    fault("no-state-before-an-evaluation", "the newest state is that of the epoch before",
          "ours: whoever is killed in an evaluation lost the epoch",
          cpu=[(LOOP, "self.save_state(prune=False)", "pass")]),
    fault("stop-told-as-a-bad-file", "the stop is an Exception, and a catch-all hides it",
          "ours: Ctrl-C while a tokenizer loads was a bad tokenizer",
          cpu=[(ERRORS, "class Interrupted(KeyboardInterrupt):",
                "class Interrupted(AprnbError):")]),
    fault("stop-inside-a-callback-hidden", "what a library made of the stop is reported",
          "common: callbacks wrap what is raised in them",
          cpu=[(INTERRUPT, "if isinstance(error, Exception) and self.requested",
                "if False and self.requested")]),
    fault("verbs-without-signals", "SIGTERM and a closed terminal kill every verb but pretrain",
          "ours: temporary files were left",
          cpu=[(FRONT, "with Interrupt():", "if True:")]),
    fault("minutes-never-over", "the limit on a run's time is read and forgotten",
          "ours: a setting that nobody used",
          cpu=[(RUN, "if plan.settings.max_minutes:", "if not plan.settings.max_minutes and 0:")]),
    fault("bad-steps-counted-with-equals", "a count that a resume took past its limit is not seen",
          "ours: three bad steps in a row never stopped a resumed run",
          cpu=[(LOOP, "if at.skipped_in_a_row >= SKIPS_IN_A_ROW:",
                "if at.skipped_in_a_row == SKIPS_IN_A_ROW:")]),
    fault("patience-forgotten-by-a-resume", "patience is judged after an epoch only",
          "ours: every resume trained an epoch more",
          cpu=[(LOOP, "self._stop_without_patience()  # a", "pass  # a")]),
    fault("patience-of-three-at-least", "--patience 1 and 2 act as 3",
          "ours: no run ended before its fourth epoch",
          cpu=[(GATES, "without, 0, epochs - 1,", "without, 0, max(epochs, 3) - 1,")]),
    fault("gates-forgotten-by-a-resume", "summary.json lists the gates of the last process only",
          "ours: a finished run that was resumed had judged nothing",
          cpu=[(RUN, 'read_position(plan.state).get("gates", [])', "[]")]),
]

FAULTS = STOPPING
