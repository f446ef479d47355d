"""A run that is longer or shorter than its schedule: what the rate does there, in words.

The horizon, --schedule-steps, is the length that the curve of the rate is laid out for. It is that
of the run as it was begun, and stays when --resume adds steps: laid out anew, a curve that had come
down would go up again, by a factor of 5 to 10 after a whole decay.
"""
from dataclasses import replace

from .schedule import Schedule


def schedule_of(settings):
    """The Schedule of these settings."""
    s = settings
    return Schedule(s.schedule, s.lr, s.min_lr, s.warmup_steps, s.schedule_steps or s.num_steps)


def beyond(settings):
    """What the rate does at the end of a run whose length is not its horizon, or None."""
    s, schedule = settings, schedule_of(settings)
    if schedule.shape == "constant":
        return None if schedule.steps == s.num_steps else (
            f"--schedule-steps {schedule.steps} changes nothing with --schedule constant")
    if schedule.steps > s.num_steps:
        return (f"--schedule-steps {schedule.steps} is more than --num-steps {s.num_steps}: the "
                f"last step has a rate of {schedule.rate(s.num_steps - 1):.3g}, before the decay "
                f"to --min-lr {s.min_lr:.3g} is done")
    first = max(schedule.steps, schedule.warmup + 1)  # warm-up goes on to its own end
    if first >= s.num_steps:
        return None
    at_once = (f", at once after --warmup-steps {s.warmup_steps}"
               if schedule.warmup >= schedule.steps else "")
    return (f"--schedule-steps {schedule.steps} is less than --num-steps {s.num_steps}: from step "
            f"{first} on the rate stays at --min-lr {s.min_lr:.3g}{at_once}"
            + ("" if s.min_lr else ", at which nothing is learnt"))


def changed(before, now, step):
    """(text, facts for events.jsonl) of a resumed run whose length or curve is not that of its
    state, None where both are.

    before, now: Settings of the state and of what follows;  step: the next one.
    """
    old, new = schedule_of(before), schedule_of(now)
    if (old, before.num_steps) == (new, now.num_steps) or step >= now.num_steps:
        return None
    last = old.rate(step - 1) if step else None
    facts = {"next_step": step, "rate_of_last_step": last,
             "old_rate": old.rate(step), "new_rate": new.rate(step),
             "old_schedule_steps": old.steps, "schedule_steps": new.steps,
             "old_num_steps": before.num_steps, "num_steps": now.num_steps}
    parts = [f"--num-steps was {before.num_steps} and is {now.num_steps}"
             if before.num_steps != now.num_steps else "",
             f"--schedule-steps was {old.steps} and is {new.steps}"
             if old.steps != new.steps else f"--schedule-steps stays {new.steps}",
             _rate(step, last, old.rate(step), new.rate(step)), beyond(now), _anew(now, old, step)]
    return "; ".join(part for part in parts if part), facts


def _rate(step, last, old, new):
    before = "" if last is None else f" (step {step - 1} had {last:.3g})"
    return (f"the rate of the next step, {step}, stays {new:.3g}{before}" if old == new else
            f"the rate of the next step, {step}, was to be {old:.3g} and is {new:.3g}{before}")


def _anew(now, old, step):
    """The other choice, where the horizon stayed and the run is longer."""
    if not old.steps == (now.schedule_steps or now.num_steps) < now.num_steps:
        return None
    if now.schedule == "constant":
        return None
    rate = schedule_of(replace(now, schedule_steps=now.num_steps)).rate(step)
    return (f"--schedule-steps {now.num_steps} would lay the decay out anew, with {rate:.3g} at "
            f"step {step}")
