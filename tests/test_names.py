"""The table of tensor names, written out for a model of one layer, and how departures are said."""
import pytest

from aprnb.config import ModelConfig
from aprnb.formats.names import compare_names, expected_tensors, summary

LAYER = {"input_layernorm.weight": (12,), "self_attn.q_proj.weight": (24, 12),
         "self_attn.q_proj.bias": (24,), "self_attn.k_proj.weight": (12, 12),
         "self_attn.k_proj.bias": (12,), "self_attn.v_proj.weight": (12, 12),
         "self_attn.v_proj.bias": (12,), "self_attn.o_proj.weight": (12, 24),
         "post_attention_layernorm.weight": (12,), "mlp.gate_proj.weight": (10, 12),
         "mlp.up_proj.weight": (10, 12), "mlp.down_proj.weight": (12, 10)}


@pytest.mark.parametrize("family, tied", [("qwen2", True), ("llama", False)])
def test_the_table_of_one_layer_in_the_order_of_the_computation(family, tied):
    config = ModelConfig(family, 12, 1, 4, 2, 6, 10, 17, 16, 1e4, 1e-6, tied)
    want = {"model.embed_tokens.weight": (17, 12)}
    want |= {f"model.layers.0.{name}": shape for name, shape in LAYER.items()
             if family == "qwen2" or not name.endswith("bias")}
    want |= {"model.norm.weight": (12,)} | ({} if tied else {"lm_head.weight": (17, 12)})
    assert list(expected_tensors(config).items()) == list(want.items())


def test_departures_are_listed_missing_first():
    found = {"b": [2, 2], "c": (4,), "e": (1,), "d": (1,)}
    assert compare_names(found, {"a": (1,), "b": (2, 2), "c": (3,)}) == [
        "missing a [1]", "not expected d [1]", "not expected e [1]",
        "misshapen c: got [4], need [3]"]
    assert compare_names({"a": (1,)}, {"a": (1,)}) == []


def test_a_summary_names_twelve_and_counts_the_rest():
    lines = [f"line {i}" for i in range(14)]
    assert summary(lines) == "; ".join(lines[:12]) + "; and 2 more"
    assert summary(lines[:12]) == "; ".join(lines[:12]) and summary([]) == ""
