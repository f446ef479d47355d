"""Does each planted fault turn the falsifiers red that are bound to it, and is all green without?

A trial is one fault, one falsifier and the hardware that its tests need. It holds if the tests pass
in the checkout as it is, and if one of them fails by its own judgement in a copy with the fault: an
assertion or a refusal of ours. A test that only stumbles, over a NameError say, has seen nothing.
"""
import contextlib
import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ...errors import CheckError, UsageError
from ..hardware import SIDES
from ..observe import run_tests
from ..processes import end_all_sessions
from .bench import Bench
from .ledger import NAME, blank_entry, changed, enter, keep, pending, read_ledger, write_ledger
from .reach import Reach

MISSING = "not installed"  # in the reason of a test that lacks a package: no fault of the test
GREEN_TIMEOUT, RED_TIMEOUT = 1200, 300  # seconds: all tests together; those of one falsifier


@dataclass(frozen=True)
class Trial:
    """One fault against one falsifier."""

    fault: object
    falsifier: object

    @property
    def tests(self):
        return self.falsifier.binding.tests

    @property
    def hardware(self):
        return self.falsifier.binding.hardware


@dataclass(frozen=True)
class Result:
    """What a trial showed; it holds if `problem` is empty and it was not skipped."""

    id: str
    falsifier: str
    hardware: str
    red_with: str | None = None
    """Where and how the falsifier went red with the fault."""
    green_without: bool | None = None
    skipped: str | None = None
    """Why it was not run."""
    pending: str = ""
    """Of one that was not run, why nobody knows that it would hold: it waits for its hardware."""
    problem: str = ""
    """Why it does not hold."""


def all_trials(contracts, registry, wanted=(), ledger=None):
    """Trials of the faults `wanted`, all if none is named, in the order of the registry.

    contracts: valid ones, of load_contracts;  registry: id -> Fault;  ledger: what was seen red
    before, of which nothing may get lost when all trials are asked for.
    Errors: UsageError for an unknown id; CheckError for a fault that no falsifier is bound to, and
    for a falsifier of the ledger that no contract binds to its fault any more.
    """
    unknown = sorted(set(wanted) - set(registry))
    if unknown:
        raise UsageError(f"no planted fault is called {', '.join(unknown)}; "
                         "aprnb faults list names them")
    found = {id: [] for id in registry}
    for contract in contracts:
        for falsifier in contract.falsifiers:
            for id in falsifier.binding.faults:
                found[id].append(Trial(registry[id], falsifier))
    found = {id: group for id, group in found.items() if not wanted or id in wanted}
    idle = [id for id, group in found.items() if not group]
    if idle:
        raise CheckError(f"no falsifier of any contract is bound to {', '.join(idle)}: "
                         "a fault that nobody looks for")
    trials = [trial for group in found.values() for trial in group]
    if not wanted:
        _refuse_lost(trials, ledger or {})
    return trials


def _refuse_lost(trials, ledger):
    asked = {(trial.falsifier.id, trial.fault.id) for trial in trials}
    for id, entry in ledger.items():
        for fault in entry["red"]:
            if (id, fault) not in asked:
                raise CheckError(f"{NAME}: {id} was seen red with {fault}, and no contract binds "
                                 "them any more; if that is meant, faults run --all --record")


def run_trials(checkout, trials, unusable, workers, ledger=None, known_green=False):
    """Iterator of a Result for each trial: first those that are skipped, then the others in order.

    unusable: hardware -> why it cannot be used here;  workers: processes at a time;
    ledger: what was seen red before (ledger.read_ledger); None: nothing is compared;
    known_green: the caller has just seen every test pass without faults.
    """
    reach = Reach(checkout)
    for trial in trials:
        if trial.hardware in unusable:
            yield _skipped(reach, trial, unusable[trial.hardware], ledger)
    todo = [trial for trial in trials if trial.hardware not in unusable]
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(workers) as pool:
        try:
            green = None if known_green else _green(checkout, todo, pool, workers)
            benches = queue.SimpleQueue()
            for _ in range(min(workers, len(todo))):
                benches.put(stack.enter_context(Bench(checkout)))
            yield from pool.map(lambda t: _one(reach, t, green, benches, ledger), todo)
        except BaseException:  # whoever interrupts does not wait for the tests that run
            end_all_sessions()
            raise


def _green(checkout, trials, pool, workers):
    """(hardware, node) -> observations of its tests without any fault."""
    jobs = []
    for side in SIDES:
        nodes = sorted({node for t in trials if t.hardware == side for node in t.tests})
        # of a GPU's kernels, a process compiles what it uses: once is enough
        parts = 1 if side == "gpu" else workers
        jobs += [(side, part) for i in range(parts) if (part := nodes[i::parts])]
    seen = pool.map(lambda job: run_tests(checkout, job[1], job[0], GREEN_TIMEOUT), jobs)
    return {(side, node): [o for o in observations if o.belongs_to(node)]
            for (side, nodes), observations in zip(jobs, seen) for node in nodes}


def _one(reach, trial, green, benches, ledger):
    found = None if green is None else _without(reach, trial, green, ledger)
    return found or _with(reach, trial, benches, ledger, known_green=green is None)


def _without(reach, trial, green, ledger):
    """The Result of a trial whose tests fail, skip or do not run without the fault; else None."""
    without = [o for node in trial.tests for o in green[trial.hardware, node]]
    bad = next((o for o in without if o.outcome in ("failed", "error")), None)
    skipped = next((o for o in without if o.outcome == "skipped"), None)
    idle = next((node for node in trial.tests if not green[trial.hardware, node]), None)
    if bad or idle:
        say = (f"{bad.where} {bad.reason}" if bad
               else f"{idle}: no such test ran on {trial.hardware}")
        return _result(trial, green_without=False, problem=f"red without the fault: {say}")
    if skipped and all(o.outcome == "skipped" for o in without):
        return _hidden(reach, trial, skipped.reason, ledger)
    return None


def _with(reach, trial, benches, ledger, known_green):
    """The Result of a trial whose tests pass without the fault."""
    shop = benches.get()
    try:
        with shop.planted(trial.fault.plants[trial.hardware]):
            seen = shop.run_tests(trial.tests, trial.hardware, RED_TIMEOUT, until_red=True)
    except CheckError as misfit:
        return _result(trial, green_without=True, problem=str(misfit))
    finally:
        benches.put(shop)
    red, problem = _judge(seen)
    skipped = next((o for o in seen if o.outcome == "skipped"), None)
    if known_green and skipped and all(o.outcome == "skipped" for o in seen):
        return _hidden(reach, trial, skipped.reason, ledger)  # so it did when it was seen green
    if not problem and ledger is not None:
        problem = _unseen(reach, trial, ledger)
    return _result(trial, red_with=red, green_without=True, problem=problem)


def _judge(seen):
    """(where it went red, what is wrong with that) of the observations with the fault."""
    red = next((o for o in seen if o.outcome == "failed" and o.judged), None)
    if red:
        return f"{red.where} {red.reason}", ""
    stumbled = next((o for o in seen if o.outcome in ("failed", "error")), None)
    if stumbled:
        return None, f"red by accident: {stumbled.where} {stumbled.reason}"
    left = next((o for o in seen if o.outcome == "skipped"), None)
    if left and all(o.outcome == "skipped" for o in seen):
        return None, f"skipped with the fault: {left.reason}"
    return None, "green with the fault: the falsifier does not see it"


def _skipped(reach, trial, reason, ledger):
    """Nothing was run, for want of hardware or of a package."""
    entry = (ledger or {}).get(trial.falsifier.id)
    waits = "" if ledger is None else pending(reach, trial.falsifier, trial.fault, entry)
    return _result(trial, skipped=reason, pending=waits)


def _hidden(reach, trial, reason, ledger):
    """Its tests skip themselves although their hardware is here."""
    result = _skipped(reach, trial, reason, ledger)
    entry = (ledger or {}).get(trial.falsifier.id)
    if not entry or MISSING in reason:
        return result
    problem = _changed(reach, trial, entry) or (
        "skipped, where it was seen red before" if trial.fault.id in entry["red"] else "")
    return replace(result, problem=problem)


def _unseen(reach, trial, ledger):
    """Why what the ledger says does not cover a trial; "" if it does."""
    entry = ledger.get(trial.falsifier.id)
    if entry is None or trial.fault.id not in entry["red"]:
        return "never recorded as seen red: aprnb faults run --record"
    return _changed(reach, trial, entry)


def _changed(reach, trial, entry):
    what = changed(reach, trial.falsifier, entry)
    return what and (f"{what} changed since they were recorded: read the change, then aprnb faults "
                     "run --record")


def record(checkout, trials, results, every):
    """Enter what was seen red into the ledger. What could not be run stays as it was recorded, with
    the digests of then.

    every: all trials were run, so entries of falsifiers that are no more are dropped.
    """
    reach, before, fresh = Reach(checkout), read_ledger(checkout), {}
    for trial, result in zip(trials, _in_order(trials, results)):
        falsifier, fault = trial.falsifier, trial.fault.id
        known = before.get(falsifier.id)
        if result.skipped and known:
            fresh.setdefault(falsifier.id, known)
            continue
        if falsifier.id not in fresh or fresh[falsifier.id] is known:
            fresh[falsifier.id] = blank_entry(reach, falsifier)
            if not every and known:
                keep(fresh[falsifier.id], known)
        fresh[falsifier.id]["red"].pop(fault, None)
        if result.red_with:
            enter(fresh[falsifier.id], trial.fault, result.red_with)
    write_ledger(checkout, fresh if every else before | fresh)


def _in_order(trials, results):
    by_key = {(r.id, r.falsifier): r for r in results}
    return [by_key[t.fault.id, t.falsifier.id] for t in trials]


def _result(trial, **what):
    return Result(trial.fault.id, trial.falsifier.id, trial.hardware, **what)
