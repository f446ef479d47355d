"""The memory plan: which buffers may share memory, and that no others do."""
import numpy as np
import pytest

from aprnb.backend import Logits
from aprnb.config import PRESETS
from aprnb.dtypes import BF16, F32
from aprnb.model.activations import RECOMPUTED, activation_table
from aprnb.model.initial import initial_weights
from aprnb.model.params import build_table
from aprnb.model.plan import plan

HALF_GIGA = Logits(BF16, 1 << 28, 256, 8)


@pytest.mark.parametrize("recompute", RECOMPUTED)
@pytest.mark.parametrize("residual", [BF16, F32], ids=str)
def test_only_the_loss_and_a_layers_backward_pass_share_memory(recompute, residual):
    table = activation_table(PRESETS["tiny"], 3, 40, BF16, HALF_GIGA, True, recompute, residual)
    layout = plan(table)
    for dtype in (F32, BF16):
        owner = np.full(layout.lengths[dtype], "", object)
        for name, b in table.items():
            if b.dtype != dtype:
                continue
            assert layout.offsets[name] % 64 == 0
            span = slice(layout.offsets[name], layout.offsets[name] + int(np.prod(b.shape)))
            taken = set(owner[span]) - {""}
            assert all({table[other].part, b.part} == {"loss", "layer"} for other in taken)
            owner[span] = name


def test_what_recomputing_saves():
    """The 0.5B shape at 16 x 1024: GiB of activations, as reckoned from its sizes."""
    sizes = {r: plan(activation_table(PRESETS["qwen2.5-0.5b"], 16, 1024, BF16,
                                      Logits(BF16, 5 << 28, 256, 8), True, r)).nbytes / 2**30
             for r in RECOMPUTED}
    assert sizes["none"] == pytest.approx(16.2, abs=0.1)
    # 23 layers less of gate, up and activation: 3 x 16,384 x 4,864 values of two bytes
    assert sizes["none"] - sizes["ffn"] == 23 * 3 * 16384 * 4864 * 2 / 2**30
    assert sizes["block"] < 3


def test_what_a_float32_residual_stream_costs():
    """Its values before and after the attention of every layer, at the end, and its gradient; what
    the products read of that lies where the logits lay."""
    layouts = [plan(activation_table(PRESETS["qwen2.5-0.5b"], 16, 1024, BF16,
                                     Logits(BF16, 5 << 28, 256, 8), True, "none", residual))
               for residual in (BF16, F32)]
    streams = 24 * 2 + 1 + 1
    assert layouts[1].nbytes - layouts[0].nbytes == streams * 16384 * 896 * 2


def test_fresh_weights_do_not_depend_on_the_number_of_threads(monkeypatch):
    config = PRESETS["tiny"]
    table, drawn = build_table(config), []
    for cores in (1, 3):
        monkeypatch.setattr("os.cpu_count", lambda n=cores: n)
        drawn.append({name: array.tobytes() for name, array in initial_weights(config, table, 7)})
    assert drawn[0] == drawn[1] and list(drawn[0]) == list(table.tensors)
    other = dict(initial_weights(config, table, 8))
    name = "model.embed_tokens.weight"
    assert other[name].tobytes() != drawn[0][name]
    assert other[name].std() == pytest.approx(config.initializer_range, rel=0.02)
