"""bisect names the first stage at which two forward passes part, and the mistake that was made."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from shared import DATA

from aprnb.backend import open_backend
from aprnb.cli import group, main
from aprnb.cli.parity import read_reference
from aprnb.errors import CheckError
from aprnb.formats.model_file import open_model
from aprnb.formats.names import EMBEDDING
from aprnb.model.rope_table import rope_table
from aprnb.proof.bisect.explain import Case, explain
from aprnb.proof.bisect.formulas import chain, formula
from aprnb.proof.bisect.hypotheses import HYPOTHESES
from aprnb.proof.bisect.probes import probes
from aprnb.proof.bisect.substages import stages
from aprnb.proof.bisect.trace import Trace
from aprnb.proof.bisect.walk import bisect_between, bisect_reference
from aprnb.proof.faults.fault import Plant
from aprnb.proof.faults.planting import Workshop

ROOT = Path(__file__).parents[1]
QWEN, LLAMA = DATA / "bisect" / "qwen2-bf16", DATA / "parity" / "llama-f16"
V = 61


@pytest.fixture(scope="module")
def qwen():
    """An untied Qwen2 with large biases, two query heads to a key head, theta 1e6, eps 1e-6."""
    with open_model(QWEN) as source:
        yield source


def with_faults(backend, faults):
    """A backend some of whose ops, or its upload, are (faulty op)(right op, *arguments)."""
    for name, fault in faults.items():
        home = backend if name == "upload" else backend.ops
        right = getattr(home, name)
        setattr(home, name, lambda *args, right=right, fault=fault: fault(right, *args))
    return backend


def between(source, faults, precision="fp32", tokens=40):
    sides = open_backend("cpu"), with_faults(open_backend("cpu", precision), faults)
    return bisect_between(source, *sides, tokens)


# ---------------------------------------------------------------- faults of one side's ops

def adjacent_pairs(right, x, cos, sin, heads):
    half = x.shape[3] // 2
    order = np.concatenate([np.arange(0, 2 * half, 2), np.arange(1, 2 * half, 2)])
    y = np.ascontiguousarray(x[..., order])
    right(y, cos, sin, heads)
    x[..., order] = y


def other_theta(right, x, cos, sin, heads):
    with open_model(QWEN) as source:
        right(x, *rope_table(source.config.with_(rope_theta=1e4), x.shape[1]), heads)


def positions_run_on(right, x, cos, sin, heads):
    flat = x.reshape(1, -1, *x.shape[2:])
    with open_model(QWEN) as source:
        right(flat, *rope_table(source.config, flat.shape[1]), heads)


def no_bias(right, y, x, w, b):
    right(y, x, w, None)


def eps_1e5(right, *args):
    right(*args[:-1], 1e-5)


def weight_left_out(right, y, rstd, x, w, eps):
    right(y, rstd, x, np.ones_like(w), eps)


def attention(mask=True, scale=None, key_head=None):
    """Attention as a plain double loop over sequences and heads."""
    def fault(right, o, lse, qkv):
        B, T, H, D = o.shape
        KVH = (qkv.shape[2] - H) // 2
        wide = qkv.astype(np.float32)
        for b in range(B):
            for h in range(H):
                k = key_head(h, H, KVH) if key_head else h // (H // KVH)
                s = wide[b, :, h] @ wide[b, :, H + k].T * (scale or D ** -0.5)
                if mask:
                    s[np.triu_indices(T, 1)] = -np.inf
                p = np.exp(s - s.max(axis=1, keepdims=True))
                o[b, :, h] = p / p.sum(axis=1, keepdims=True) @ wide[b, :, H + KVH + k]
    return fault


def no_branch(right, s, y, rstd, x, r, w, eps):
    right(s, y, rstd, x, np.zeros_like(r), w, eps)


def no_stream(right, s, y, rstd, x, r, w, eps):
    right(s, y, rstd, np.zeros_like(x), r, w, eps)


def transposed_output_projection(right, y, x, w, b):
    right(y, x, w.reshape(w.shape[::-1]).T if w.shape == (16, 32) else w, b)


def last_columns_skipped(right, y, x, w, b):
    """A product of tiles of 16 that forgets the last eight of 24 terms."""
    K = x.shape[1] // 16 * 16
    right(y, x[:, :K], w[:, :K], b)


def last_row_skipped(right, h, gu, x, w):
    right(h[:-1], gu[:-1], x[:-1], w)


def gate_and_up_swapped(right, h, gu, x, w):
    right(h, gu, x, np.roll(w, len(w) // 2, axis=0))
    gu[...] = np.roll(gu, gu.shape[1] // 2, axis=1)


seen = {}  # what a fault remembers of an earlier op


def remember(right, y, table, ids):
    seen.update(table=table, ids=ids)
    right(y, table, ids)


def tied_logits(right, y, x, w, b):
    right(y, x, seen["table"] if len(w) == V else w, b)


def tied_losses(right, losses, logits, x, w, targets):
    right(losses, logits, x, seen["table"], targets)


def unshifted(right, losses, logits, x, w, targets):
    right(losses, logits, x, w, seen["ids"])


def scored_as_id_0(right, losses, logits, x, w, targets):
    right(losses, logits, x, w, np.maximum(targets, 0))


def bits(right, losses, *args):
    right(losses, *args)
    losses /= np.log(2)


def divided(right, losses, *args):
    right(losses, *args)
    losses /= 40


def read_as_f16(right, target, host):
    import ml_dtypes
    wrong = host.astype(ml_dtypes.bfloat16).view(np.float16).astype(np.float32)
    right(target, wrong if host.shape == (24, 16) else host)


def rows_for_columns(right, target, host):
    right(target, host.T.reshape(host.shape) if host.shape == (16, 32) else host)


def never_uploaded(right, target, host):
    if host.shape != (32,):
        right(target, host)


FAULTS = {  # what is planted -> (op: fault, the stage, the words)
    "adjacent pairs": ({"rope_forward": adjacent_pairs},
                       "layer 0: q and k after RoPE depart while q and k before it agree: pairing",
                       "adjacent pairs (2i, 2i + 1) instead of halves"),
    "theta": ({"rope_forward": other_theta}, "layer 0: q and k after RoPE depart",
              "theta 10,000 instead of 1,000,000"),
    "no rotation": ({"rope_forward": lambda *args: None}, "layer 0: q and k after RoPE depart",
                    "no rotation"),
    "positions": ({"rope_forward": positions_run_on}, "layer 0: q and k after RoPE depart",
                  "positions that run on from one sequence to the next"),
    "bias": ({"linear_forward": no_bias},
             "layer 0: q, k and v after bias depart while q, k and v before it agree: the bias",
             "the bias left out"),
    "eps": ({"rmsnorm_forward": eps_1e5},
            "layer 0: the attention norm departs while the embedding agrees: eps or",
            "eps 1e-05 instead of 1e-06"),
    "norm weight": ({"rmsnorm_forward": weight_left_out}, "layer 0: the attention norm departs",
                    "the weight left out"),
    "mask": ({"attention_forward": attention(mask=False)},
             "layer 0: the attention output before the output projection departs while q, k and v "
             "after RoPE agree", "no causal mask"),
    "scale": ({"attention_forward": attention(scale=1.0)}, "layer 0: the attention output before",
              "no 1/sqrt(d)"),
    "key heads": ({"attention_forward": attention(key_head=lambda h, H, KVH: h % KVH)},
                  "layer 0: the attention output before", "key head h % kv instead of h // group"),
    "branch": ({"add_rmsnorm_forward": no_branch},
               "layer 0: the residual after attention departs while the embedding and the "
               "attention output agree: what is added", "the branch missing"),
    "stream": ({"add_rmsnorm_forward": no_stream}, "layer 0: the residual after attention departs",
               "the stream missing"),
    "transposed": ({"linear_forward": transposed_output_projection},
                   "layer 0: the attention output departs", "the weight transposed"),
    "last tile": ({"linear_forward": last_columns_skipped}, "layer 0: the MLP output departs",
                  "the last 8 of 24 terms of every sum skipped"),
    "last row": ({"linear_swiglu_forward": last_row_skipped},
                 "layer 0: gate and up of the MLP depart while the MLP norm agrees",
                 "24 of 2880 values never written, or not finite (rows 119 to 119 of 120)"),
    "gate and up": ({"linear_swiglu_forward": gate_and_up_swapped},
                    "layer 0: the output of SwiGLU departs while gate and up of the MLP agree",
                    "gate and up taken for one another"),
    "tied head": ({"embedding_forward": remember, "linear_forward": tied_logits,
                   "linear_cross_entropy_forward": tied_losses},
                  "the logits depart while the final norm agrees",
                  "the tied embedding instead of the model's own head"),
    "tied head of the loss": ({"embedding_forward": remember,
                               "linear_cross_entropy_forward": tied_losses},
                              "the loss buffer departs while the logits agree",
                              "the tied embedding instead of the model's own head"),
    "targets": ({"embedding_forward": remember, "linear_cross_entropy_forward": unshifted},
                "the loss buffer departs while the logits agree", "unshifted targets"),
    "ignored targets": ({"linear_cross_entropy_forward": scored_as_id_0},
                        "the loss of rows without a target departs while the logits agree",
                        "a target of id 0 where there is none"),
    "log2": ({"linear_cross_entropy_forward": bits}, "the loss buffer departs",
             "log2 units: bits instead of nats"),
    "count": ({"linear_cross_entropy_forward": divided}, "the loss buffer departs",
              "every loss divided by the sequence length (40)"),
    "bf16 as f16": ({"upload": read_as_f16}, "upload: model.layers.0.mlp.gate_proj.weight: ",
                    "reproduced bit by bit by bf16 bits read as f16 (4 tensors differ)"),
    "transposed upload": ({"upload": rows_for_columns},
                          "upload: model.layers.0.self_attn.o_proj.weight: ",
                          "reproduced bit by bit by the tensor transposed (2 tensors differ)"),
    "no upload": ({"upload": never_uploaded},
                  "upload: model.layers.0.self_attn.q_proj.bias: ",
                  "reproduced bit by bit by NaN that nobody wrote"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_one_side_is_named(name, qwen):
    faults, stage, words = FAULTS[name]
    report = between(qwen, faults)
    assert stage in report.sentence and words in report.sentence, report.sentence
    if not report.differences:
        assert report.finding.side == "cpu, fp32 (the second)"
        assert "reproduced" in report.sentence and report.finding.error < 1e-5


@pytest.mark.parametrize("name", ["adjacent pairs", "theta", "eps", "mask", "key heads", "branch",
                                  "transposed", "tied head", "log2", "bf16 as f16"])
def test_a_fault_of_one_side_is_named_in_bfloat16(name, qwen):
    faults, stage, words = FAULTS[name]
    report = between(qwen, faults, "bf16")
    assert stage in report.sentence and words in report.sentence, report.sentence


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_undamaged_sides_agree(precision, qwen):
    report = between(qwen, {}, precision)
    assert report.sentence is None and report.differences == ()
    assert len(report.rows) == len(stages(qwen.config)) == 44
    assert all(row.ok for row in report.rows)


def test_a_fault_that_nobody_knows_is_said_to_be_none_of_the_known(qwen):
    def noise(right, o, lse, qkv):
        right(o, lse, qkv)
        o += np.random.default_rng(0).standard_normal(o.shape).astype(o.dtype)
    report = between(qwen, {"attention_forward": noise})
    assert "layer 0: the attention output before the output projection departs" in report.sentence
    assert "none of the known hypotheses reproduces what cpu, fp32" in report.sentence


def test_a_decoder_that_leaves_an_op_out_is_refused(qwen, monkeypatch):
    from aprnb.model.decoder import Decoder
    monkeypatch.setattr(Decoder, "_expand", lambda self, w, a: None)
    with pytest.raises(CheckError, match="calls linear_swiglu_forward 0 times where its layers"):
        between(qwen, {})


# ---------------------------------------------------------------- formulas and hypotheses

def test_formulas_reproduce_pytorch(qwen):
    probe, = probes(read_reference(QWEN / "reference.npz"), qwen.config)
    assert probe.complete and probe.ids.shape == (2, 32)
    values = chain(qwen.config, qwen.array, probe.ids, probe.targets)
    for path, want in probe.trace.values.items():
        scale = np.abs(want).max()
        assert np.abs(values[path] - want).max() <= 2e-6 * scale, path


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
                finding = explain(case, [stage], traces, 1e-9)
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
        "aprnb/config.py", 'rms_norm_eps=get.number("rms_norm_eps"),\n        tied=_boolean',
        "rms_norm_eps=1e-5,\n        tied=_boolean", "layer 0: the attention norm departs",
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
    done = subprocess.run([sys.executable, "-m", "aprnb", "bisect", str(QWEN), *args], cwd=root,
                          env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, timeout=120)
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
    assert 0.999 < stage["cosine"] < 1 and 0 < stage["error"] < stage["limit"]


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


# ---------------------------------------------------------------- kernels

@pytest.mark.sim
def test_the_simulator_agrees_with_the_oracle(qwen):
    report = bisect_between(qwen, open_backend("cpu"), open_backend("cuda", "fp32"), 9)
    assert report.sentence is None and len(report.rows) == 44


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_gpu_agrees_with_the_oracle(precision, qwen):
    report = bisect_between(qwen, open_backend("cpu"), open_backend("cuda", precision), 77)
    assert report.sentence is None and len(report.rows) == 44
