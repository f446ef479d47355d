"""Every gate on both sides of both bounds, NaN included."""
import math

import pytest

from aprnb.train import gates

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("make, passing, failing", [
    (gates.finite_loss, [0.0, 1e-9, 2.5, 1e30], [NAN, INF, -INF, -0.1]),
    (gates.finite_gradient, [1e-20, 1.0, 1e30], [NAN, INF, -1.0, 0.0]),
    (gates.speed, [1e-3, 1e6], [0.0, -1.0, NAN, INF, 2e9]),
    (gates.utilisation, [0, 50, 100], [-0.1, 100.1, NAN]),
    (lambda n: gates.full_batch(n, 64), [64], [0, 63, 65]),
    (lambda n: gates.real_updates(n, 20), [20], [0, 19, 21]),
    (lambda x: gates.target(x, 2.2), [2.2, 1.0, 1e-6], [2.2000001, 0.0, -1.0, NAN, INF]),
    (lambda x: gates.divergence([x], 10.0), [10.0, 2.5, 1e-6], [10.0001, 0.0, NAN, INF, -1.0]),
    (lambda x: gates.divergence([3.0, x], 10.0), [6.0, 1.0], [6.0001, 0.0, NAN, INF, -1.0]),
])
def test_two_sides(make, passing, failing):
    assert [make(v).ok for v in passing] == [True] * len(passing)
    assert [make(v).ok for v in failing] == [False] * len(failing)


def test_the_guard_compares_with_the_epoch_before_and_not_with_the_first_limit():
    assert gates.divergence([30.0, 59.0], 10.0).ok
    assert not gates.divergence([2.0, 4.1], 10.0).ok
    assert gates.divergence([2.0, 3.9, 7.0], 10.0).ok
    assert not gates.divergence([5.0, 2.0, 4.1], 10.0).ok


def test_an_evaluation_of_nothing_never_passes():
    for gate in (gates.target(0.0, 2.2), gates.divergence([0.0], 10.0),
                 gates.divergence([2.0, 0.0], 10.0)):
        assert not gate.ok and "FAILED" in gate.message


@pytest.mark.parametrize("history, epochs, ok", [
    ([3], 1, True),
    ([3, 3], 1, False),
    ([3, 3], 2, True),
    ([3, 3, 3], 2, False),
    ([3, 2, 2.1, 2.2, 2.3, 2.4], 5, True),
    ([3, 2, 2.1, 2.2, 2.3, 2.4, 2.5], 5, False),
    ([3, 2, 2.1, 2.2, 2.3, 2.4, 1.9], 5, True),
    ([3, 2, 2.6, 2.5, 2.4, 2.3, 2.2], 5, False),  # falling again, and no new best
    ([3, 2, 1, 0.9], 1, True),
])
def test_patience_counts_epochs_since_the_best(history, epochs, ok):
    assert gates.patience(history, epochs).ok is ok


def test_the_bound_of_patience_is_its_epochs():
    assert [gates.patience([3, 2, 2.5], epochs).high for epochs in (1, 2, 5)] == [0, 1, 4]


def test_record_fields_must_be_exactly_those():
    fields = ("step", "lr")
    assert gates.record_fields({"step": 0, "lr": None}, fields).ok
    assert not gates.record_fields({"step": 0}, fields).ok
    assert not gates.record_fields({"step": 0, "lr": 1, "more": 2}, fields).ok
    assert not gates.record_fields({"step": 0, "more": 2}, fields).ok


def test_epoch_files_must_exist_and_hold_something(tmp_path):
    files = [tmp_path / "a.apr", tmp_path / "a.metadata.json"]
    assert not gates.epoch_files(files).ok
    files[0].write_bytes(b"x")
    files[1].write_bytes(b"")
    assert not gates.epoch_files(files).ok
    files[1].write_bytes(b"{}")
    assert gates.epoch_files(files).ok


def test_the_first_limit_is_in_nats(record_property):
    assert gates.default_first_limit_nats(True, 151643) == 10.0
    limit = gates.default_first_limit_nats(False, 151643)
    record_property("largest_first_loss", float(limit))
    assert limit == pytest.approx(2 * 11.929, abs=1e-3)  # not 2 * 17.21, which is bits


@pytest.mark.parametrize("gate, id, name", [
    (gates.record_fields({}, ()), "001", "record_fields_count"),
    (gates.epoch_files([]), "002", "checkpoint_files_count"),
    (gates.target(1.0, 2.2), "003", "final_val_loss_nats"),
    (gates.patience([1.0], 5), "004", "epochs_without_improvement_count"),
    (gates.divergence([1.0], 10.0), "005", "val_loss_nats"),
    (gates.divergence([1.0, 1.0], 10.0), "005", "val_loss_nats"),
    (gates.finite_loss(1.0), "007", "loss_nats"),
    (gates.finite_gradient(1.0), "007", "grad_norm"),
    (gates.speed(1.0), "008", "tokens_per_sec"),
    (gates.utilisation(1.0), "008", "gpu_util_pct"),
    (gates.real_updates(1, 1), "010", "optimiser_updates_count"),
    (gates.full_batch(1, 1), "EXHAUST", "target_tokens_count"),
])
def test_every_gate_has_the_number_of_its_promise(gate, id, name):
    assert (gate.id, gate.name) == (f"GATE-TRAIN-{id}", name)
    assert gate.message.startswith(f"{gate.id} holds: {name} ")


def test_a_message_gives_value_bounds_and_the_flag():
    assert gates.target(3.0, 2.2).message == (
        "GATE-TRAIN-003 FAILED: final_val_loss_nats 3, need 1e-06 to 2.2: --target-val-loss")


def test_names_end_in_a_unit_and_messages_name_value_and_bounds():
    made = [gates.finite_loss(1.0), gates.finite_gradient(1.0), gates.speed(1.0),
            gates.utilisation(1.0), gates.full_batch(1, 1), gates.real_updates(1, 1),
            gates.target(3.0, 2.2), gates.divergence([1.0], 10.0), gates.patience([1.0], 5),
            gates.record_fields({}, ()), gates.epoch_files([])]
    units = ("_nats", "_norm", "_per_sec", "_pct", "_count")
    assert all(gate.name.endswith(units) for gate in made)
    assert "3" in gates.target(3.0, 2.2).message and "2.2" in gates.target(3.0, 2.2).message


def test_a_gate_is_json_even_for_nan():
    import json
    text = json.dumps(gates.finite_loss(NAN).as_json(), allow_nan=False)
    assert json.loads(text)["value"] == "nan"
    assert gates.finite_loss(2.5).as_json()["value"] == 2.5
    for loss in (2.5, math.inf):
        gate = gates.finite_loss(loss)
        assert gates.Gate.from_json(gate.as_json()) == gate
