"""bisect names the first stage at which a forward pass leaves its reference, and the mistake."""
import json
import os
import sys

import numpy as np
import processes
import pytest
from click.testing import CliRunner
from faulty_sides import LLAMA, QWEN, ROOT, V, adjacent_pairs, attention, bits, qwen, with_faults
from test_bisect_sides import FAULTS

from aprnb.backend import open_backend
from aprnb.cli import group, main
from aprnb.cli.parity import read_reference
from aprnb.errors import CheckError
from aprnb.formats.model_file import open_model
from aprnb.formats.names import EMBEDDING
from aprnb.model.instance import Model
from aprnb.proof.bisect.explain import Case, explain
from aprnb.proof.bisect.formulas import chain, formula
from aprnb.proof.bisect.hypotheses import HYPOTHESES
from aprnb.proof.bisect.probes import probes
from aprnb.proof.bisect.substages import stages
from aprnb.proof.bisect.trace import Trace, trace
from aprnb.proof.bisect.walk import bisect_between, bisect_reference
from aprnb.proof.faults.fault import Plant
from aprnb.proof.faults.planting import Workshop
from exact import in_both
from tolerance import allowed, assert_within, gamma


# ---------------------------------------------------------------- formulas and hypotheses

@pytest.mark.numeric
def test_formulas_reproduce_pytorch(qwen):
    probe, = probes(read_reference(QWEN / "reference.npz"), qwen.config)
    assert probe.complete and probe.ids.shape == (2, 32)
    values = chain(qwen.config, qwen.array, probe.ids, probe.targets)
    # PyTorch has float32 everywhere, as the oracle has; the formulas have it in products alone
    exact, own = in_both(lambda: trace(Model.from_file(qwen, open_backend("cpu")), probe.ids,
                                       probe.targets).values)
    for path, want in probe.trace.values.items():
        rounding = np.abs(own[path] - exact[path]).max()
        assert_within(path, values[path], want, allowed(rounding, np.abs(want).max()))


@pytest.fixture(scope="module", params=[QWEN, LLAMA], ids=["qwen2", "llama"])
def right_side(request):
    """(case, values of every stage by the formulas) of 2 x 33 tokens."""
    window = np.random.default_rng(1).integers(0, V, (2, 34)).astype(np.int32)
    with open_model(request.param) as source:
        case = Case(source.config, source.array, window[:, :-1], window[:, 1:])
        yield case, chain(source.config, source.array, case.ids, case.targets)


LEFT_OUT = {  # hypotheses that say nothing about a model: it has no such part
    "qwen2": {"scaling_left_out"},
    "llama": {"no_bias", "bias_twice", "bias_of_another"},
}


@pytest.mark.numeric
@pytest.mark.parametrize("fn", [fn for known in HYPOTHESES.values() for fn in known],
                         ids=lambda fn: fn.__name__)
def test_every_hypothesis_names_its_own_mistake_and_no_other(fn, right_side):
    """The mistake is made at one stage; of all that is tried there, its words must come out."""
    case, values = right_side
    told, shape = 0, (case.config.vocab_size, case.config.hidden_size)
    head = np.random.default_rng(2).standard_normal(shape).astype(np.float32)  # its own, unused
    for stage in stages(case.config):
        if fn in HYPOTHESES[stage.kind] and stage.layer in (0, None):
            for words, wrong in fn(case.place(values, stage, head), stage.key):
                traces = (Trace("right", values),
                          Trace("wrong", values | {stage.path: wrong}, head=head))
                finding = explain(case, [stage], traces, gamma(1))
                assert (finding.side, finding.hypothesis, finding.words) == (
                    "wrong", fn.__name__, words)
                told += 1
    model = "qwen2" if case.config.qkv_bias else "llama"
    assert (told == 0) == (fn.__name__ in LEFT_OUT[model])


HEADS = {  # what stands in the place of the right head -> what is said
    "random": (lambda right, rng: rng.standard_normal(right.shape), "random numbers instead of"),
    "a copy that fell behind": (lambda right, rng: right * rng.uniform(0.9, 1.1, right.shape),
                                "another head instead of"),
    "rows in another order": (lambda right, rng: right[::-1], None),
    "zeros": (lambda right, rng: right * 0, "zeros"),
    "never written": (lambda right, rng: right * np.nan, "never written, or not finite"),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_its_own_is_told_from_one_that_is_misread(name, qwen):
    """The backend has the right tensors, and the decoder takes another for the head."""
    make, words = HEADS[name]
    sides = [open_backend("cpu"), open_backend("cpu")]
    right = sides[1].ops.linear_forward

    def other_head(y, x, w, b):
        if len(w) == V:
            w[...] = make(w.copy(), np.random.default_rng(0))
        right(y, x, w, b)
    sides[1].ops.linear_forward = other_head
    report = bisect_between(qwen, *sides, 40)
    assert "the logits depart while the final norm agrees" in report.sentence
    assert (words or "none of the known hypotheses") in report.sentence, report.sentence


# ---------------------------------------------------------------- against PyTorch

PLANTS = {  # what is planted in the shared code -> (file, old, new, the sentence)
    "oracle rotates adjacent pairs": (
        "aprnb/oracle/rope.py", "low, high = x[:, :, :heads, :half], x[:, :, :heads, half:]",
        "low, high = x[:, :, :heads, ::2], x[:, :, :heads, 1::2]",
        "layer 0: q and k after RoPE depart while q and k before it agree", "adjacent pairs"),
    "decoder drops the bias": (
        "aprnb/model/decoder.py", 'w("qkv.weight"), self._bias(w))', 'w("qkv.weight"), None)',
        "layer 0: q, k and v after bias depart while q, k and v before it agree",
        "the bias left out"),
    "decoder takes the embedding for the head": (
        "aprnb/model/decoder.py", "if config.tied else", "if True else",
        "the logits depart while the final norm agrees", "the tied embedding instead of"),
    "theta is fixed in the table": (
        "aprnb/model/rope_table.py", "f = config.rope_theta **", "f = 1e4 **",
        "layer 0: q and k after RoPE depart", "theta 10,000 instead of 1,000,000"),
    "eps is fixed in the configuration": (
        "aprnb/formats/config_json.py",
        'rms_norm_eps=get.number("rms_norm_eps"),\n        tied=boolean_of',
        "rms_norm_eps=1e-5,\n        tied=boolean_of", "layer 0: the attention norm departs",
        "what the reference holds is reproduced to"),
    "bf16 is read by the f16 table": (
        "aprnb/formats/tensors.py", "DENSE = {**FLOATS,",
        'DENSE = {**FLOATS, "BF16": np.dtype(np.float16),',
        "upload: model.embed_tokens.weight: the file, as it is read here, holds other values than "
        "the reference", "bf16 bits read as f16 (27 tensors differ)"),
    "a head of its own is passed over": (
        "aprnb/formats/model_file.py",
        '"says tied: the head of its own is used"]\n    return config, []',
        '"says tied: the head of its own is used"]\n    return config.with_(tied=True), []',
        "upload: lm_head.weight: the reference has it, the file, as it is read here, has not",
        ": the embedding is taken for the head"),
    "evaluation does not shift": (
        "aprnb/train/evaluate.py", "full[:, 1:]", "full[:, :-1]",
        "the mean loss departs while the loss buffer agrees", "unshifted targets"),
}


@pytest.fixture(scope="module")
def workshop():
    with Workshop(ROOT) as shop:
        yield shop


def run_in(root, *args):
    """(exit code, last line of stderr) of `aprnb bisect` as the checkout at `root` has it."""
    done = processes.run([sys.executable, "-m", "aprnb", "bisect", str(QWEN), *args], cwd=root,
                         env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"})
    return done.returncode, (done.stderr.splitlines() or [""])[-1]


@pytest.mark.parametrize("name", PLANTS)
def test_a_fault_of_both_sides_is_named_by_the_reference(name, workshop):
    *plant, stage, words = PLANTS[name]
    with workshop.planted([Plant(*plant)]):
        code, message = run_in(workshop.root, "--reference", str(QWEN / "reference.npz"),
                               "--device", "cpu")
    assert code == 5 and stage in message and words in message, message


def test_two_sides_with_the_same_fault_agree(workshop):
    """Why a reference is needed: both sides of the CPU are one oracle."""
    *plant, _, _ = PLANTS["oracle rotates adjacent pairs"]
    with workshop.planted([Plant(*plant)]):
        assert run_in(workshop.root, "--between", "cpu,cpu") == (0, "")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_reference_agrees(precision, qwen):
    report = bisect_reference(qwen, open_backend("cpu", precision),
                              read_reference(QWEN / "reference.npz"))
    assert report.sentence is None and len(report.rows) == 44


@pytest.mark.parametrize("name", ["adjacent pairs", "bias", "mask", "targets"])
def test_stages_that_the_reference_lacks_are_computed(name, qwen):
    """Every second stage is taken away: plain NumPy stands in and the sentence is the same."""
    reference = read_reference(QWEN / "reference.npz")
    kept = {key: value for i, (key, value) in enumerate(sorted(reference.items()))
            if i % 2 or not key.startswith("stage/0")}
    faults, stage, words = FAULTS[name]
    report = bisect_reference(qwen, with_faults(open_backend("cpu"), faults), kept)
    assert stage in report.sentence and words in report.sentence, report.sentence
    assert "agrees with plain NumPy, which stands in" in report.sentence


# ---------------------------------------------------------------- samples, as parity has them

@pytest.fixture
def llama():
    with open_model(LLAMA) as source:
        yield source


def against_samples(source, faults=None):
    return bisect_reference(source, with_faults(open_backend("cpu"), faults or {}),
                            read_reference(LLAMA / "reference.npz"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_samples_agree(precision, llama):
    report = bisect_reference(llama, open_backend("cpu", precision),
                              read_reference(LLAMA / "reference.npz"))
    assert report.sentence is None
    assert [row.stage.path for row in report.rows] == [
        "embedding", "0/mlp_residual", "1/mlp_residual", "final_norm", "logits", "mean_loss"]


@pytest.mark.parametrize("faults, stage, words", [
    ({"rope_forward": adjacent_pairs}, "layer 0: q and k after RoPE depart", "adjacent pairs"),
    ({"attention_forward": attention(key_head=lambda h, H, KVH: h % KVH)},
     "layer 0: the attention output before", "key head h % kv"),
    ({"linear_cross_entropy_forward": bits}, "the loss buffer departs", "log2 units"),
])
def test_a_fault_between_samples_is_named(faults, stage, words, llama):
    report = against_samples(llama, faults)
    assert stage in report.sentence and words in report.sentence, report.sentence


@pytest.mark.parametrize("change, words", [
    ({"rope_theta": 5e5}, "theta 10,000 instead of 500,000"),
    ({"rms_norm_eps": 1e-2}, "eps 1e-05 instead of 0.01"),
])
def test_a_configuration_read_wrongly_is_named_from_samples(change, words, llama):
    llama.config = llama.config.with_(**change)
    report = against_samples(llama)
    assert "layer 0, residual after MLP is the first of the reference's samples" in report.sentence
    assert "what the reference holds is reproduced to" in report.sentence
    assert words in report.sentence, report.sentence


def test_what_stands_before_a_sample_is_left_as_it_is(llama):
    """A reference that does not rotate in layer 1, and only there."""
    reference = read_reference(LLAMA / "reference.npz")
    ids = reference["input_ids"].astype(np.int32)

    def instead(at, key):
        wrong = at.layer == 1 and key in ("q_rope", "k_rope")
        return at(f"{key[0]}_bias") if wrong else formula(at, key)
    values = chain(llama.config, llama.array, ids, ids, instead=instead, until="final_norm")
    paths = ["embedding", "0/mlp_residual", "1/mlp_residual", "final_norm"]
    hidden = np.stack([values[path][:, :8].reshape(*ids.shape, 8) for path in paths])
    report = bisect_reference(llama, open_backend("cpu"),
                              {"input_ids": ids, "hidden_first8": hidden})
    assert "layer 1, residual after MLP is the first of the reference's samples" in report.sentence
    assert "what the reference holds is reproduced" in report.sentence
    assert "by no rotation" in report.sentence, report.sentence


# ---------------------------------------------------------------- command line

def test_json_report():
    result = CliRunner().invoke(group, ["bisect", str(QWEN), "--between", "cpu,cpu:bf16",
                                        "--tokens", "32", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["schema"] == "aprnb-bisect-v1" and report["ok"]
    assert report["sides"] == ["cpu, fp32", "cpu, bf16"]
    assert (report["sequences"], report["positions"]) == (3, 32)
    assert report["sentence"] is report["hypothesis"] is report["first_departure"] is None
    assert report["upload"] == {"tensors": 27, "differing": []}
    stage = next(s for s in report["stages"] if s["path"] == "0/k_rope")
    assert stage["name"] == "layer 0, k after RoPE" and stage["ok"]
    assert 0 < 1 - stage["cosine"] < stage["error"] < stage["limit"]


def exit_of(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        main(["bisect", str(QWEN), *map(str, args)])
    return caught.value.code, capsys.readouterr()


def test_a_departure_is_exit_5_and_its_numbers_are_in_the_report(tmp_path, capsys):
    reference = read_reference(QWEN / "reference.npz")
    reference["stage/1/k_rope"] = reference["stage/1/k_bias"]
    reference["stage/1/gate"] = reference["stage/1/gate"] * np.nan
    np.savez(tmp_path / "r.npz", **reference)
    code, said = exit_of(capsys, "--reference", tmp_path / "r.npz", "--device", "cpu", "--json")
    assert code == 5 and said.err.startswith("error: bisect: layer 1: k after RoPE departs while")
    assert said.err.endswith("what the reference holds is reproduced exactly by no rotation\n")
    report = json.loads(said.out)
    assert report["first_departure"] == "layer 1, k after RoPE" and not report["ok"]
    assert report["hypothesis"] == {"name": "no_rotation", "words": "no rotation",
                                    "side": "the reference", "error": 0.0}
    assert report["tried"][0]["name"] == "no_rotation" and len(report["tried"]) > 5
    assert [s["path"] for s in report["stages"] if not s["ok"]] == ["1/k_rope", "1/gate"]
    assert next(s for s in report["stages"] if s["path"] == "1/gate")["error"] is None


@pytest.mark.parametrize("args, code, words", [
    ([], 2, "give either --reference FILE.npz or --between A,B"),
    (["--between", "cpu,cpu", "--reference", "r.npz"], 2, "give either"),
    (["--between", "cpu"], 2, "need two backends"),
    (["--between", "cpu,gpu"], 2, "need auto, cpu, cuda"),
    (["--between", "cpu,cpu", "--tokens", "31"], 2, "32<=x<=1024"),
    (["--between", "cpu,cpu", "--tokens", "129"], 6, "exceeds the model's 128 positions"),
    (["--reference", "absent.npz", "--tokens", "64"], 2, "a reference brings its own tokens"),
    (["--reference", "absent.npz", "--device", "cpu"], 3, "no such reference file"),
])
def test_bad_arguments(args, code, words, capsys):
    got, said = exit_of(capsys, *args)
    assert got == code and words in said.err


@pytest.mark.parametrize("key, value, words", [
    ("stage/input_ids", np.full((2, 32), V), "got ids from 61 to 61, need 0 to 60"),
    ("stage/input_ids", np.zeros((2, 32)), "need integers of shape (B, T)"),
    ("stage/targets", np.zeros((2, 31), int), "need integers of shape (2, 32)"),
    ("stage/0/gate", np.zeros((2, 32, 16), np.float32), "of shape (2, 32, 24)"),
    ("stage/losses", np.zeros((2, 31), np.float32), "of shape (2, 32); is it"),
    ("stage/input_ids", None, "nothing was compared"),
    ("stage/targets", None, "stage/losses: it needs stage/targets beside it"),
    ("stage/0/q_roped", np.zeros((2, 32, 32), np.float32), "0/q_roped: this model has no such"),
    ("stage/2/q_rope", np.zeros((2, 32, 32), np.float32), "2/q_rope: this model has no such stage"),
])
def test_a_reference_that_does_not_fit_is_named_by_its_key(key, value, words, tmp_path, capsys):
    reference = read_reference(QWEN / "reference.npz") | {key: value}
    np.savez(tmp_path / "r.npz", **{k: v for k, v in reference.items() if v is not None})
    code, said = exit_of(capsys, "--reference", tmp_path / "r.npz", "--device", "cpu")
    assert code == 5 and words in said.err


def test_ids_alone_are_nothing_to_compare(qwen):
    ids = read_reference(QWEN / "reference.npz")["stage/input_ids"]
    with pytest.raises(CheckError, match="nothing was compared"):
        bisect_reference(qwen, open_backend("cpu"), {"stage/input_ids": ids})


@pytest.mark.parametrize("key", ["hidden_first8", "logits_last", "heldout_losses"])
def test_samples_that_are_not_finite_are_named_by_their_key(key, llama):
    reference = read_reference(LLAMA / "reference.npz")
    reference[key].flat[3] = np.nan
    with pytest.raises(CheckError, match=f"reference key {key}: 1 of {reference[key].size} values"):
        bisect_reference(llama, open_backend("cpu"), reference)


@pytest.mark.parametrize("kept, words", [
    (lambda name: name != EMBEDDING, "has it, the reference has not"),
    (lambda name: True, "the reference has it, the file, as it is read here, has not"),
])
def test_tensors_are_compared_as_sets_of_names(kept, words, qwen):
    reference = read_reference(QWEN / "reference.npz")
    names, sums = reference["stage/tensors"], reference["stage/sha256"]
    chosen = np.array([kept(name) for name in names])
    names, sums = names[chosen], sums[chosen]
    if chosen.all():
        names, sums = np.append(names, "model.layers.2.mlp.up_proj.weight"), np.append(sums, "00")
    reference |= {"stage/tensors": names, "stage/sha256": sums}
    assert words in bisect_reference(qwen, open_backend("cpu"), reference).sentence
