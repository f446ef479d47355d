"""aprnb contracts validate: what it prints, and how it ends."""
import json

import pytest
from test_contracts_validate import FAULTS, ROOT, SOUND

from aprnb.cli import main
from aprnb.proof.contracts.contract import ContractError, Value, load_contracts


@pytest.fixture
def aprnb(capsys):
    """A function: arguments -> (exit code, stdout, stderr) of the command line."""
    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["contracts", "validate", *map(str, arguments)])
        return end.value.code, *capsys.readouterr()
    return run


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a sound contract; the registry knows its fault."""
    monkeypatch.setattr("aprnb.proof.contracts.rules.registry", lambda: FAULTS)
    (tmp_path / "sound.yaml").write_text(SOUND)
    return tmp_path


def test_a_valid_contract_is_called_so(aprnb, place):
    assert aprnb(place / "sound.yaml")[:2] == (0, "0 error(s), 0 warning(s)\nContract is valid.\n")
    (place / "deeper").mkdir()
    (place / "deeper/second.yml").write_text(SOUND.replace("FALSIFY-X", "FALSIFY-Y"))
    assert aprnb(place)[:2] == (0, "0 error(s), 0 warning(s)\n2 contracts are valid.\n")


def test_warnings_alone_leave_a_contract_valid(aprnb, place):
    path = place / "sound.yaml"
    path.write_text(SOUND.replace("if_fails: y is something else", "if_fails: ''"))
    code, out, _ = aprnb(path)
    assert code == 0 and out.startswith(f"{path}:21: warning SCHEMA-009: ")
    assert out.endswith("\n0 error(s), 1 warning(s)\nContract is valid.\n")


@pytest.mark.parametrize("old, new, line, rule", [
    ("        lower: 0.05\n", "", 29, "APRNB-015"), ("unit: nats", "unit: bits", 28, "APRNB-018")])
def test_a_one_sided_bound_and_a_wrong_unit_are_refused_by_file_and_line(aprnb, place, old, new,
                                                                         line, rule):
    path = place / "sound.yaml"
    path.write_text(SOUND.replace(old, new))
    code, out, err = aprnb(place)
    assert code == 5
    assert out.startswith(f"{path}:{line}: error {rule}: ")
    assert out.endswith("\n1 error(s), 0 warning(s)\n")
    assert err == f"error: contracts: 1 error in 1 file, first: {path}:{line}: {rule}\n"


def test_an_id_in_two_contracts_is_refused(aprnb, place):
    (place / "twin.yaml").write_text(SOUND)
    code, out, _ = aprnb(place)
    assert code == 5 and out.count("SCHEMA-007") == 2 and "sound.yaml already" in out
    assert aprnb(place / "sound.yaml", place / "sound.yaml")[0] == 0  # once is once


def test_json_is_one_document(aprnb, place):
    path = place / "sound.yaml"
    path.write_text(SOUND.replace("unit: nats", "unit: bits"))
    code, out, _ = aprnb(path, "--json")
    report = json.loads(out)
    assert code == 5 and report["schema"] == "aprnb-contracts-v1" and not report["ok"]
    assert (report["errors"], report["warnings"], report["files"]) == (1, 0, [str(path)])
    [finding] = report["findings"]
    message = finding.pop("message")
    assert finding == {"path": str(path), "line": 28, "rule": "APRNB-018", "severity": "error"}
    assert "nats" in message


def test_what_is_missing_is_named(aprnb, place):
    (place / "empty").mkdir()
    (place / "dangling").mkdir()
    (place / "dangling/gone.yaml").symlink_to(place / "nothing")
    for name, said in (("nowhere.yaml", "nowhere.yaml"), ("empty", "empty"),
                       ("dangling", "dangling/gone.yaml")):
        code, out, err = aprnb(place / name)
        assert code == 3 and not out and said in err


def test_an_installed_package_says_that_it_needs_a_checkout(aprnb, tmp_path, monkeypatch):
    monkeypatch.setattr("aprnb.proof.checkout.__file__",
                        str(tmp_path / "site-packages/aprnb/proof/checkout.py"))
    code, out, err = aprnb()
    assert code == 3 and not out and "no tests/ and contracts/ beside the package" in err


def test_contracts_are_loaded_as_plain_values(place):
    [contract] = load_contracts([place])
    assert (contract.name, contract.path) == ("sound", place / "sound.yaml")
    first, second = contract.falsifiers
    assert (first.id, first.rule) == ("FALSIFY-X-001", "y is x")
    assert second.rule == "the second names of keys"
    assert first.binding.tests == ("tests/test_rope.py::test_golden_vector_of_the_oracle",)
    assert (first.binding.faults, first.binding.hardware) == (("a-fault",), "cpu")
    assert first.binding.value == Value("first_loss", "nats", 0.05, 8.35, (1.5, 4.0))
    assert first.binding.run == "summary.json:best_val_loss_nats"
    assert second.binding.value is second.binding.run is None


def test_broken_contracts_are_not_loaded(place):
    (place / "sound.yaml").write_text(SOUND.replace("hardware: cpu", "hardware: tpu"))
    with pytest.raises(ContractError, match=r"sound\.yaml:25: APRNB-013: .*\(and 1 more\)"):
        load_contracts([place])


def test_the_contracts_of_this_checkout_are_valid(aprnb):
    code, out, _ = aprnb(ROOT / "contracts")
    assert code == 0, out
