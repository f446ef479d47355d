"""bisect --between: the first stage at which two sides part, and the mistake that one made."""
import numpy as np
import pytest
from faulty_sides import (adjacent_pairs, attention, between, bits, divided, eps_1e5,
                          gate_and_up_swapped, last_columns_skipped, last_row_skipped,
                          never_uploaded, no_bias, no_branch, no_stream, other_theta,
                          positions_run_on, qwen, read_as_f16, remember, rows_for_columns,
                          scored_as_id_0, tied_logits, tied_losses, transposed_output_projection,
                          unshifted, weight_left_out)

from aprnb.backend import open_backend
from aprnb.errors import CheckError
from aprnb.model.instance import Model
from aprnb.proof.bisect.explain import error
from aprnb.proof.bisect.substages import stages
from aprnb.proof.bisect.trace import trace
from aprnb.proof.bisect.walk import bisect_between
from exact import in_both
from tolerance import allowed

pytestmark = pytest.mark.numeric

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


@pytest.fixture(scope="module")
def rounding(qwen):
    """How far float32 takes a right side at the worst of its stages; scores that are not divided by
    the root of D, as one of the faults leaves them, are that much larger."""
    window = np.random.default_rng(0).integers(0, qwen.config.vocab_size, (1, 41), np.int32)
    exact, own = in_both(lambda: trace(Model.from_file(qwen, open_backend("cpu")), window[:, :-1],
                                       window[:, 1:]).values)
    return max(error(own[path], exact[path]) for path in own) * qwen.config.head_dim ** 0.5


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_one_side_is_named(name, qwen, rounding):
    faults, stage, words = FAULTS[name]
    report = between(qwen, faults)
    assert stage in report.sentence and words in report.sentence, report.sentence
    if not report.differences:
        assert report.finding.side == "cpu, fp32 (the second)"
        assert "reproduced" in report.sentence
        assert report.finding.error <= allowed(rounding, 1)


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


@pytest.mark.sim
def test_the_simulator_agrees_with_the_oracle(qwen):
    report = bisect_between(qwen, open_backend("cpu"), open_backend("cuda", "fp32"), 9)
    assert report.sentence is None and len(report.rows) == 44


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_gpu_agrees_with_the_oracle(precision, qwen):
    report = bisect_between(qwen, open_backend("cpu"), open_backend("cuda", precision), 77)
    assert report.sentence is None and len(report.rows) == 44
