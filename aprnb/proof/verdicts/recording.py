"""One run of contracts, told or recorded as evidence."""
import io
import time
from pathlib import Path

from ...errors import NotFoundError, UsageError
from ...formats.atomic import write_json, write_text
from ...provenance import origin, require_commit
from ..checkout import checkout
from ..contracts.contract import load_contracts
from ..evidence.folder import DISPATCH, OUTPUT, draft, seal
from ..evidence.training import attach_run, device_of_run, inputs_of_run
from ..hardware import SIDES, idle
from ..paths import shorten, shown
from .document import FILE, document, judging
from .examine import examine
from .status import proven, read_evidence
from .verdict import RED


def run_contracts(paths, sides, run_dir, argv, commit=None):
    """The document of verdicts.json for these contracts, all if none is named.

    sides: hardware to run on; None: all that is usable here;  run_dir: folder of a training run or
    None;  argv: the command line.
    Errors: those of load_contracts and examine; DeviceError if a GPU is asked for and there is
    none; NotFoundError if run_dir is no run, UsageError if no falsifier reads one.
    """
    root = checkout()
    return _told(root, load_contracts(paths), origin(root, commit), sides, run_dir, argv)


def record_contracts(output, paths, sides, run_dir, argv, commit=None, notes=(), force=False):
    """The same, written as evidence into the new folder `output`.

    Errors: those, and UsageError without a commit, CheckError if `output` exists, StorageError.
    """
    root, begin, log = checkout(), time.monotonic(), io.StringIO()
    contracts, where = load_contracts(paths), require_commit(origin(root, commit))
    with draft(output, force) as folder:
        told = _told(root, contracts, where, sides, run_dir, argv, log)
        write_json(folder / FILE, told)
        write_text(folder / (DISPATCH if run_dir else OUTPUT), shorten(log.getvalue(), root))
        if run_dir:
            attach_run(folder, run_dir, root)
        seal(folder, root, Path(output).name, where, argv, 5 if told["counts"][RED] else 0,
             time.monotonic() - begin, _devices(told), _inputs(contracts, root, run_dir), notes)
    return told


def _told(root, contracts, where, sides, run_dir, argv, log=None):
    if run_dir:
        _require_reader(contracts, sides or SIDES)
    run = _run_told(run_dir, root) if run_dir else None
    known = proven(contracts, read_evidence(root / "evidence"), root)
    used = {f.binding.hardware for contract in contracts for f in contract.falsifiers}
    examined = examine(contracts, root, idle("contracts run", sides, used), run_dir, log)
    return document(examined, root, where, [shorten(word, root) for word in argv], run_dir, run,
                    known)


def _require_reader(contracts, sides):
    """UsageError unless a falsifier that is asked for reads a training run."""
    if not any(f.binding.run and f.binding.hardware in sides
               for contract in contracts for f in contract.falsifiers):
        raise UsageError("contracts run: --run-dir: none of the falsifiers that are asked for "
                         "reads a training run; leave it out, or choose other contracts or another "
                         "--hardware")


def _run_told(run_dir, root):
    device = device_of_run(run_dir)
    if device is None:
        raise NotFoundError(f"{run_dir}: no folder of a training run that ended, it has no "
                            "summary.json")
    return {"folder": shown(str(run_dir), root), "device": device}


def _devices(told):
    """What the tests ran on, in one line."""
    ran = {f"{r['hardware']}: {r['device']}" for r in told["verdicts"] if r["observations"]}
    return "; ".join(sorted(ran)) or None


def _inputs(contracts, root, run_dir):
    files = {file for c in contracts for f in c.falsifiers for file in judging(c, f, root)}
    return [*sorted(files), *(inputs_of_run(run_dir) if run_dir else ())]
