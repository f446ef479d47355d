"""bisect names every planted fault of the forward pass that shows in a small model."""
import os
import sys
from pathlib import Path

import processes
import pytest
from shared import DATA

from aprnb.proof.faults.fault import registry
from aprnb.proof.faults.planted import forward
from aprnb.proof.faults.planting import Workshop

ROOT = Path(__file__).parents[1]
UNTIED, TIED, LLAMA = (DATA / place for place in ("bisect/qwen2-bf16", "parity/qwen2-bf16",
                                                  "parity/llama-f16"))
EPS, ROPE, HEADS = ("layer 0: the attention norm departs", "layer 0: q and k after RoPE depart",
                    "layer 0: the attention output before the output projection departs")
NAMED = {  # id -> (the model that shows it, where it departs, what is said of it)
    "qkv-biases-ignored": (UNTIED, "layer 0: q, k and v after bias depart", "the bias left out"),
    "tied-head-random": (TIED, "the logits depart while the final norm agrees",
                         "random numbers instead of the tied embedding"),
    "decoder-eps-fixed": (UNTIED, EPS, "eps 1e-05 instead of 1e-06"),
    "mlp-branch-zero": (TIED, "layer 0: the residual after MLP departs", "the branch missing"),
    "logits-left-over": (UNTIED, "the loss buffer departs while the logits agree",
                         "64 of 64 values never written"),
    "rope-pairing-by-family": (LLAMA, ROPE, "adjacent pairs"),
    "rope-keys-not-turned": (TIED, "layer 0: k after RoPE departs", "no rotation"),
    "rmsnorm-eps-ignored": (TIED, EPS, "eps 0 instead of 1e-06"),
    "rmsnorm-eps-fixed": (TIED, EPS, "eps 1e-05 instead of 1e-06"),
    "rmsnorm-eps-on-the-root": (TIED, EPS, "eps added to the root"),
    "rmsnorm-mean-of-one-more": (LLAMA, EPS, "the mean square over one column too many"),
    "rmsnorm-residual-dropped": (UNTIED, "layer 0: the residual after attention departs",
                                 "the branch missing"),
    "rope-missing": (TIED, ROPE, "no rotation"),
    "rope-adjacent-pairs": (TIED, ROPE, "adjacent pairs"),
    "rope-theta-fixed": (TIED, ROPE, "theta 10,000 instead of 1,000,000"),
    "rope-position-off-by-one": (UNTIED, ROPE, "positions shifted by +1"),
    "rope-scaling-ignored": (LLAMA, ROPE, "RoPE scaling left out"),
    "rope-rotates-values": (TIED, "layer 0: v after RoPE departs", "RoPE on the values too"),
    "attention-mask-missing": (TIED, HEADS, "no causal mask"),
    "attention-mask-off-by-one": (UNTIED, HEADS, "a mask that lets the next token be seen"),
    "attention-wrong-key-head": (TIED, HEADS, "key head h % kv"),
    "attention-scale-one-over-d": (TIED, HEADS, "1/d instead of 1/sqrt(d)"),
    "attention-keys-of-the-first-sequence": (UNTIED, HEADS, "the keys of the first sequence"),
    "embedding-row-before": (TIED, "the embedding departs", "the row before that of each id"),
    "swiglu-halves-exchanged": (TIED, "layer 0: the output of SwiGLU departs",
                                "gate and up taken for one another"),
    "linear-square-weight-transposed": (TIED, "layer 0: the attention output departs",
                                        "the weight transposed"),
    "linear-rows-and-columns-mixed": (TIED, "layer 0: q, k and v before bias depart",
                                      "the packed weights transposed"),
    "loss-without-the-last-logit": (LLAMA, "the loss buffer departs",
                                    "the last 1 of 272 logits left out"),
    "loss-target-read-after-overwrite": (UNTIED, "the loss buffer departs",
                                         "the target's probability in the place of its logit"),
    "loss-of-ignored-targets": (UNTIED, "the loss of rows without a target departs",
                                "a target of id 0 where there is none"),
}
SHOWS_ELSEWHERE = {  # id -> what it needs to depart from any reference
    "tied-head-copied": "a step of training",
    "rmsnorm-reads-unrounded-sum": "bfloat16", "rmsnorm-statistics-in-bf16": "bfloat16",
    "attention-without-maximum": "scores beyond 88", "loss-without-maximum": "logits beyond 88",
}


def test_every_forward_fault_is_looked_for():
    assert not set(NAMED) & set(SHOWS_ELSEWHERE)
    assert set(NAMED) | set(SHOWS_ELSEWHERE) == {fault.id for fault in forward.FAULTS}


@pytest.fixture(scope="module")
def workshop():
    with Workshop(ROOT) as shop:
        yield shop


def said(root, model):
    """(exit code, last line of stderr) of bisect, as the checkout at `root` has it."""
    done = processes.run([sys.executable, "-m", "aprnb", "bisect", str(model), "--reference",
                          str(model / "reference.npz"), "--device", "cpu"], cwd=root,
                         env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"})
    return done.returncode, (done.stderr.splitlines() or [""])[-1]


@pytest.mark.parametrize("id", NAMED)
def test_a_planted_fault_is_named(id, workshop):
    model, where, words = NAMED[id]
    with workshop.planted(registry()[id].plants["cpu"]):
        code, message = said(workshop.root, model)
    assert code == 5 and where in message, message
    assert "is reproduced" in message and words in message, message


@pytest.mark.parametrize("model", [UNTIED, TIED, LLAMA], ids=["untied", "tied", "llama"])
def test_without_a_fault_all_agree(model, workshop):
    assert said(workshop.root, model) == (0, "")
