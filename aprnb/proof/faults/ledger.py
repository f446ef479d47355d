"""What was seen red, and what the tests looked like then: contracts/seen-red.json.

A falsifier counts because a planted fault turned it red. When its test changes afterwards, nobody
knows whether it still would, in every assertion: so the ledger keeps a digest of what the test
reaches in tests/ (reach.py), and a change asks to be read and recorded again. Where a GPU is needed
it keeps a digest, too, of what the test reaches in the package and one of each fault's plants: on a
machine without one nothing is run, so that it was seen red is known of these alone. Files of data
are not in it.
"""
import hashlib
import json
from pathlib import Path

from ...errors import CheckError
from ...formats.atomic import write_text

NAME = "contracts/seen-red.json"


def read_ledger(root):
    """Falsifier id -> entry, see blank_entry; "red" is {fault id: where it went red}.

    Errors: CheckError if the file is damaged.
    """
    path = Path(root) / NAME
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text())["falsifiers"]
        return {id: e | {"digest": e["digest"], "red": dict(e["red"])}
                | ({"plants": dict(e["plants"])} if "plants" in e else {})
                for id, e in entries.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckError(f"{NAME}: damaged ({type(error).__name__} {error}); take it from git, or "
                         "delete it and run aprnb faults run --all --record") from error


def seen_red(reach, falsifier, ledger):
    """Ids of its faults with which a falsifier's tests, as they stand now, were seen red."""
    entry = ledger.get(falsifier.id)
    if entry is None or changed(reach, falsifier, entry):
        return set()
    return set(entry["red"]) & set(falsifier.binding.faults)


def write_ledger(root, falsifiers):
    """Replace the ledger; its order does not depend on the order of the trials."""
    path = Path(root) / NAME
    text = json.dumps({"schema": "aprnb-seen-red-v1", "falsifiers": falsifiers}, indent=1,
                      sort_keys=True)
    write_text(path, text + "\n")


def blank_entry(reach, falsifier):
    """The entry of a falsifier as it stands, of which nothing was seen red. reach: reach.Reach."""
    binding = falsifier.binding
    entry = {"digest": digest_of_tests(reach, binding.tests, binding.value),
             "hardware": binding.hardware, "red": {}}
    if binding.hardware == "gpu":
        entry |= {"package": _digest(reach, binding.tests, in_tests=False), "plants": {}}
    return entry


def enter(entry, fault, where):
    """Note in an entry where a fault, as it stands, turned its falsifier red."""
    entry["red"][fault.id] = where
    if "plants" in entry:
        entry["plants"][fault.id] = _digest_of_plants(fault)


def keep(entry, known):
    """Take into a new entry what an older one says, if all that it was seen in is the same; of a
    fault that was seen in other code nobody knows any more."""
    parts = ("digest", "hardware", "package")
    if all(entry.get(part) == known.get(part) for part in parts):
        entry["red"] |= known["red"]
        if "plants" in entry:
            entry["plants"] |= known.get("plants", {})


def changed(reach, falsifier, entry):
    """What is no more as it was when an entry was made; "" if all that judges is: its tests, its
    bounds, its hardware, without which it would be skipped where there is none."""
    now = blank_entry(reach, falsifier)
    parts = (("digest", "its tests or bounds"), ("hardware", "its hardware"))
    return " and ".join(words for key, words in parts if now[key] != entry.get(key))


def pending(reach, falsifier, fault, entry):
    """Why nobody knows that a Fault turns a falsifier red as both stand, for one that cannot be run
    here; "" if it was seen."""
    if entry is None or fault.id not in entry["red"]:
        return "never seen red"
    now = blank_entry(reach, falsifier)
    what = changed(reach, falsifier, entry) or (
        "the code that it reaches" if now.get("package") != entry.get("package") else
        "the fault itself" if "plants" in now
        and _digest_of_plants(fault) != entry.get("plants", {}).get(fault.id) else "")
    return what and f"{what} changed since it was seen red"


def digest_of_tests(reach, nodes, value=None):
    """SHA-256 of what test functions reach in tests/. Comments and blank lines do not count.

    value: contract.Value, the gate of a number that the tests report: it judges too.
    """
    return _digest(reach, nodes, in_tests=True, more=repr(value) if value else "")


def _digest_of_plants(fault):
    return hashlib.sha256(repr(fault.plants["gpu"]).encode()).hexdigest()


def _digest(reach, nodes, in_tests, more=""):
    digest = hashlib.sha256(more.encode())
    for node in sorted(nodes):
        digest.update(node.encode())
        for piece in reach.of(node):
            if piece.file.startswith("tests/") == in_tests:
                digest.update("\0".join([piece.file, piece.name, piece.code, ""]).encode())
    return digest.hexdigest()
