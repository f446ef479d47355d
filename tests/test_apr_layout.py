"""The tables of APR v2 as the format's description has them: flags, codes, sizes, metadata."""
import json

import numpy as np
import pytest
from apr_bytes import build, entry

from aprnb.formats import apr_layout as layout
from aprnb.formats.apr import read_apr, write_apr

FLAGS = [(0x0001, "LZ4"), (0x0002, "ZSTD"), (0x0004, "ENCRYPTED"), (0x0008, "SIGNED"),
         (0x0010, "SHARDED"), (0x0020, "QUANTIZED"), (0x0040, "HAS_FILTERBANK"),
         (0x0080, "HAS_MODEL_CARD"), (0x0100, "STREAMING"), (0x0200, "HAS_VOCAB"),
         (0x0400, "LAYOUT_ROW_MAJOR"), (0x0800, "LAYOUT_COLUMN_MAJOR")]
FIELDS = """model_type name description author license data_source data_license version source
    original_format created_at total_size param_count quantization sharding chat_template
    chat_format special_tokens architecture hf_architecture hf_model_type hidden_size num_layers
    num_heads num_kv_heads vocab_size intermediate_size max_position_embeddings rope_theta
    rope_type rms_norm_eps head_dim num_experts num_experts_per_tok
    moe_intermediate_size""".split()


def test_flags_and_limits():
    assert list(layout.FLAGS.items()) == FLAGS
    assert layout.MAX_METADATA == 64 << 20 and layout.MAX_NAME == 256 and layout.MAX_RANK == 8
    assert layout.QUANTISED == ("Q4_K", "Q6_K", "AprQ4", "AprQ8")


@pytest.mark.parametrize("code, dtype, shape, nbytes", [
    (0, "F32", (5,), 20), (1, "F16", (5,), 10), (3, "F64", (5,), 40), (4, "I32", (5,), 20),
    (5, "I64", (5,), 40), (6, "I8", (5,), 5), (7, "U8", (5,), 5), (8, "AprQ4", (33,), 36),
    (9, "AprQ8", (5,), 9), (12, "Q4_K", (2, 257), 576), (14, "Q6_K", (2, 257), 840),
    (30, "BF16", (5,), 10), (128, "AprQ4", (32,), 18), (129, "AprQ8", (5,), 9)])
def test_a_code_is_a_dtype_of_a_size(code, dtype, shape, nbytes, tmp_path):
    (tmp_path / "x.apr").write_bytes(build([entry("t", code, shape, 0, nbytes)], bytes(1024)))
    entry_ = read_apr(tmp_path / "x.apr").tensors["t"]
    assert (entry_.dtype, entry_.nbytes) == (dtype, nbytes)


@pytest.mark.parametrize("dtype, shape, sizes", [
    ("F32", (), (4,)), ("F32", (0, 3), (0,)), ("AprQ8", (0, 3), (0,)), ("AprQ4", (0,), (0,)),
    ("Q4_K", (3, 256), (432,)), ("Q4_K", (), (144,)), ("Q4_K", (0, 256), (0,)),
    ("Q4_K", (3, 300), (864, 576)), ("Q4_K", (2, 3, 300), (1728, 1152)),
    ("Q6_K", (300, 3), (63_000, 840)), ("U8", (2**40, 2**40), (2**80,))])
def test_sizes_by_hand_the_written_one_first(dtype, shape, sizes):
    assert layout.payload_sizes(dtype, shape) == sizes


def test_metadata_are_written_in_the_order_of_the_format(tmp_path):
    values = {key: 7 for key in reversed(FIELDS)}
    write_apr(tmp_path / "a.apr", {"custom": 1, **values, "model_type": "m"},
              {"a": np.zeros(3, np.float32)})
    got = read_apr(tmp_path / "a.apr").metadata
    assert list(got) == [*FIELDS, "custom"]
    assert (got["total_size"], got["param_count"], got["name"]) == (12, 3, 7)


def test_metadata_of_nothing():
    assert json.dumps(layout.canonical_metadata({}, 0, 0)) == (
        '{"model_type": "", "license": null, "data_source": null, "data_license": null, '
        '"total_size": 0, "param_count": 0}')
