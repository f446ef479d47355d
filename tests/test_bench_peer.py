"""The peers of the benches are not held back: causal attention, one AdamW, what ran is said.

What needs torch and transformers is skipped where they are not installed; the guard itself, the
names of kernels and the variants are judged everywhere.
"""
import csv
import importlib.util
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from runs import aprnb_here

from aprnb.bench import cases, record, step
from aprnb.bench.causal import attention_calls, refuse_dense, refuse_unknown
from aprnb.bench.kernel_names import attention_of
from aprnb.bench.rows import Row
from aprnb.bench.variants import SETTLED, WORDS, Variant, variant_of
from aprnb.config import PRESETS
from aprnb.errors import AprnbError, UsageError

ABSENT = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
with_torch = pytest.mark.skipif(bool(ABSENT), reason=f"{' and '.join(ABSENT)} not installed")
ON_GPU = {"preset": "qwen2.5-0.5b", "batch": 16, "length": 1024, "device": "cuda",
          "precision": "bf16"}
FEW = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8,
       "intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 64}
LENGTH = 16


# ---------------------------------------------------------------- the guard

def node(target="<built-in function scaled_dot_product_attention>", *args, **kwargs):
    return SimpleNamespace(target=target, args=args, kwargs=kwargs)


CAUSAL, DENSE = node(attn_mask=None, is_causal=True), node(attn_mask="mask", is_causal=False)


@pytest.mark.parametrize("handicapped", [
    DENSE, node(attn_mask=None, is_causal=False), node(attn_mask="mask", is_causal=True), node(),
    node(CAUSAL.target, "q", "k", "v", "mask"),
    node(CAUSAL.target, "q", "k", "v", None, 0.0, False)])
def test_a_peer_with_a_dense_mask_is_refused(handicapped):
    nodes = [CAUSAL, node("matmul"), handicapped]
    with pytest.raises(AprnbError, match="1 of its 2 calls of attention get a mask of all pairs"):
        refuse_dense(attention_calls(nodes))


def test_causal_attention_passes_in_every_spelling():
    calls = list(attention_calls([CAUSAL, node("matmul"), node("bench.aprnb_fa4.default"),
                                  node(CAUSAL.target, "q", "k", "v", None, 0.0, True)]))
    refuse_dense(calls)
    assert calls == [(False, True)] * 3


def test_a_layer_without_attention_that_we_know_is_refused():
    refuse_unknown(24, 24)
    with pytest.raises(AprnbError, match="calls attention 0 times in 24 layers"):
        refuse_unknown(0, 24)


# ---------------------------------------------------------------- names

@pytest.mark.parametrize("names, word", [
    (["cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x64_4x1x1",
      "triton_red_fused__log_softmax_1"], "cuDNN"),
    (["void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4>>",
      "void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>"], "flash"),
    (["fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::...)"], "mem_efficient"),
    (["kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90_object_at__"],
     "FA4"),
    (["triton_per_fused__softmax_where_3", "triton_red_fused__log_softmax_1"], "math"),
    (["cudnn_generated_fort_native_sdpa_sm90_flash_bprop", "pytorch_flash::flash_fwd_kernel"],
     "cuDNN+flash"),
    (["triton_red_fused__log_softmax_1", "nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT"], "unknown")])
def test_the_attention_that_ran_is_told_by_its_kernels(names, word):
    found, kernels = attention_of(names)
    assert found == word
    assert set(kernels) <= set(names) and (kernels or word == "unknown")
    assert not any("log_softmax" in name for name in kernels)


# ---------------------------------------------------------------- variants

def test_a_variant_is_the_plain_way_with_its_words_changed():
    found = variant_of("fa4+bf16-residual+step-graph+combo", ON_GPU)
    assert found == replace(Variant(), name=found.name, attention="fa4", residual="bf16",
                            launch="step", inductor=(("combo_kernels", True),))
    assert variant_of("plain", ON_GPU) == Variant()
    assert all(variant_of(word, ON_GPU) != Variant(name=word) for word in WORDS)


@pytest.mark.parametrize("name, settings, words", [
    ("fast", ON_GPU, "no word 'fast'; need best, plain or words of flash, own, fa4"),
    ("flash+own", ON_GPU, "flash and own are about the same thing"),
    ("trees+step-graph", ON_GPU, "trees and step-graph are about the same thing"),
    ("step-graph", ON_GPU | {"device": "cpu"}, "need a GPU"),
    ("master", ON_GPU | {"precision": "fp32"}, "computes in bfloat16"),
    ("eager+trees", ON_GPU, "graphs of Inductor")])
def test_a_variant_that_cannot_be_is_refused(name, settings, words):
    with pytest.raises(UsageError, match=words):
        variant_of(name, settings)


def test_the_settled_variant_goes_by_the_size():
    few = variant_of("best", ON_GPU | {"batch": 4, "length": 512})
    many = variant_of("best", ON_GPU)
    assert (few.launch, many.launch) == ("step", "kernels")
    assert (many.master, many.one_update, many.attention) == (True, True, "cudnn")
    assert variant_of("best", ON_GPU | {"device": "cpu"}).attention == "own"
    assert all(variant_of(row.variant, ON_GPU) and row.why for row in SETTLED)


def test_a_variant_is_refused_before_a_process_starts():
    result = aprnb_here("bench", "step", "--against", "torch", "--torch-variant", "fast")
    assert result.returncode == 2 and "no word 'fast'" in result.stderr
    result = aprnb_here("bench", "step", "--torch-variant", "own")
    assert result.returncode == 2 and "use --against torch" in result.stderr


def test_the_sizes_of_the_step_rows_are_standard_ones():
    assert {"16x1024", "4x512", "8x2048", "4x4096", "1x16384", "64x256"} == set(cases.STEP_CASES)
    assert {"qwen2.5-0.5b", "qwen2.5-1.5b", "llama-370m"} <= set(PRESETS)
    assert {f"fwd/{D}/1x16384" for D in (64, 128)} <= set(cases.attentions())


# ---------------------------------------------------------------- rows

def side(ms, variant, **last):
    return SimpleNamespace(
        seconds=[ms / 1e3] * 3, turn=5, start_s=7.0, used=None, footprint=None,
        seen={"attention": "cuDNN", "attention_kernels": ["cudnn_sdpa"]},
        last={"how": "", "loss": 1.0, "memory_peak": ms * 2**30, "device": "a GPU",
              "variant": variant, "compile_cache": "warm",
              "versions": {"torch": "2.11.0", "cuDNN": "91900"}} | last)


def test_the_fastest_variant_is_the_peer_and_the_row_says_what_ran(tmp_path):
    sides = {"ours": side(10, None), "plain": side(14, "plain"), "own+trees": side(12, "own+trees")}
    names = dict.fromkeys(["plain", "own+trees"], "torch.compile amp")
    speed, memory, start = step._as_rows("4x8", sides, 32, names)
    assert speed.peers == {"torch.compile amp": [32 / 0.012] * 3}
    assert memory.peers == {"torch.compile amp": [12.0]}
    ran = "own+trees; cuDNN attention; torch 2.11.0; cuDNN 91900"
    assert speed.how == {"torch.compile amp": ran}
    assert start.how == {"torch.compile amp": f"{ran}; compile cache warm"}
    assert set(speed.notes["sides"]) == {"ours", "plain", "own+trees"}
    assert speed.as_json()["peers"]["torch.compile amp"]["how"] == ran
    kept = record.Record(tmp_path / "bench.csv", "abc1234")
    kept.add(speed)
    kept.add(Row("step", "alone", "s", "cpu", [1.0]))
    first, second = csv.DictReader((tmp_path / "bench.csv").open())
    assert first["peer_how"] == ran and second["peer_how"] == ""


# ---------------------------------------------------------------- with torch and transformers

def hf_config(family):
    """A configuration of two small layers; qwen3 with a layer of sliding windows as long as T."""
    from aprnb.bench import torch_model
    if family == "qwen3":
        from transformers import Qwen3Config
        return Qwen3Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=8, intermediate_size=48, vocab_size=64, max_position_embeddings=64,
            use_cache=False, use_sliding_window=True, sliding_window=LENGTH, max_window_layers=1)
    preset = {"qwen2": "tiny", "llama": "llama-370m"}[family]
    return torch_model.hf_config(PRESETS[preset].with_(**FEW))


def traced(model):
    """(logits of the compiled model, how many attention calls the guard saw in its graph)."""
    import torch

    from aprnb.bench.causal import JudgedInductor, compiled
    torch._dynamo.reset()
    guard = JudgedInductor({})

    def judged(graph, inputs):  # only judged: generating code takes long
        guard.judge(graph)
        return graph.forward
    ids = torch.arange(2 * LENGTH).reshape(2, LENGTH)
    logits = compiled(lambda ids: model(input_ids=ids).logits, judged)(ids)
    return logits, guard.calls


@with_torch
@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3"])
def test_no_mask_reaches_attention_and_the_logits_are_those_of_the_plain_call(family):
    import torch

    from aprnb.bench.torch_model import causal_model
    model = causal_model(hf_config(family), torch.device("cpu"), Variant(), LENGTH)
    logits, calls = traced(model)
    assert calls == 2
    model.set_attn_implementation("sdpa")
    plain = model(input_ids=torch.arange(2 * LENGTH).reshape(2, LENGTH)).logits
    assert torch.equal(logits, plain)
    with pytest.raises(AprnbError, match="2 of its 2 calls of attention get a mask of all pairs"):
        traced(model)  # as the bench once called it


@with_torch
def test_windows_shorter_than_the_sequence_are_refused():
    import torch

    from aprnb.bench.torch_model import causal_model
    with pytest.raises(AprnbError, match="windows of 16 tokens, need at least the 17"):
        causal_model(hf_config("qwen3"), torch.device("cpu"), Variant(), LENGTH + 1)


@with_torch
@pytest.mark.parametrize("variant", [
    Variant("expanded", grouped=False), Variant("bf16-residual", residual="bf16"),
    Variant("master", master=True, residual="bf16")], ids=lambda variant: variant.name)
def test_every_variant_computes_the_same_loss(variant):
    """To a unit in the last place of the largest bfloat16 logit; layers as strong as the stream."""
    import torch

    from aprnb.bench.torch_model import causal_model, loss_of
    ids = torch.arange(2 * LENGTH).reshape(2, LENGTH)
    values = {}
    for name, kind in {"plain": Variant(), "other": variant}.items():
        torch.manual_seed(0)
        model = causal_model(hf_config("llama"), torch.device("cpu"), kind, LENGTH)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(10 if p.dim() == 2 else 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=not kind.master):
            values[name] = loss_of(model, kind)(ids, ids.flip(1))
            largest = model(input_ids=ids).logits.abs().max().item()
    assert values["other"].dtype == torch.float32
    assert abs(values["other"] - values["plain"]) <= largest * 2 ** -8


@with_torch
def test_llama_370m_is_built_with_the_shape_of_its_preset():
    import torch

    from aprnb.bench.torch_model import causal_model
    from aprnb.bench.torch_model import hf_config as of_preset
    with torch.device("meta"):
        model = causal_model(of_preset(PRESETS["llama-370m"]), torch.device("meta"), Variant(), 8)
    c = PRESETS["llama-370m"]
    layer = model.model.layers[0].self_attn
    assert (layer.head_dim, layer.num_key_value_groups) == (64, 4)
    assert layer.q_proj.weight.shape == (c.num_heads * 64, c.hidden_size)
    assert layer.q_proj.bias is None and layer.k_proj.weight.shape == (4 * 64, c.hidden_size)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    norms = (2 * c.num_layers + 1) * c.hidden_size
    per_layer = c.hidden_size * (2 * 16 * 64 + 2 * 4 * 64 + 3 * c.intermediate_size)
    assert sum(p.numel() for p in model.parameters()) == (
        2 * c.vocab_size * c.hidden_size + c.num_layers * per_layer + norms)


STEPS = 3


def after_steps(variant, dtype):
    """The weights of a small model after STEPS updates with gradients that have to be clipped."""
    import torch

    from aprnb.bench.torch_update import update_of
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)).to(dtype)
    update = update_of(model, variant)
    for number in range(STEPS):
        torch.manual_seed(number + 1)
        for p in model.parameters():
            p.grad = (3 * torch.randn(p.shape)).to(dtype)
        update()
        assert all(p.grad is None for p in model.parameters())
    return [p.detach() for p in model.parameters()]


@with_torch
def test_the_compiled_update_is_that_of_adamw(monkeypatch):
    """In float64, up to the roundings of a dozen operations on numbers below 1."""
    import torch

    from aprnb.bench import torch_update
    monkeypatch.setattr(torch_update, "LEARNING_RATE", 1e-2)
    fused = after_steps(Variant(), torch.float64)
    one = after_steps(Variant(one_update=True, compiled=False), torch.float64)
    for a, b in zip(fused, one):
        assert (a - b).abs().max() <= STEPS * 12 * torch.finfo(torch.float64).eps


@with_torch
@pytest.mark.parametrize("one_update", [False, True])
def test_master_weights_are_float32_and_the_model_has_their_rounding(one_update, monkeypatch):
    import torch

    from aprnb.bench import torch_update
    monkeypatch.setattr(torch_update, "LEARNING_RATE", 1e-3)  # less than bfloat16 can add to 1/3
    got = after_steps(Variant(master=True, one_update=one_update, compiled=False), torch.bfloat16)
    torch.manual_seed(0)
    wide = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)).bfloat16().float()
    adamw = torch.optim.AdamW(wide.parameters(), 1e-3, (0.9, 0.95), 1e-8, 0.1)
    for number in range(STEPS):
        torch.manual_seed(number + 1)
        for p in wide.parameters():
            p.grad = (3 * torch.randn(p.shape)).bfloat16().float()
        torch.nn.utils.clip_grad_norm_(wide.parameters(), 1.0)
        adamw.step()
    for a, b in zip(got, wide.parameters()):  # rounded to 8 bits, what was right to about 20
        assert ((a.float() - b).abs() <= b.abs() * 2 ** -8 + 2 ** -20).all()
        assert (a != b.detach().bfloat16()).sum() <= 1  # a rounding of float32 at a boundary


@with_torch
def test_flash_attention_4_is_one_causal_operator_with_its_gradients(monkeypatch):
    """With the definition in the package's place: layout, gradients and what the guard sees."""
    import torch

    def probabilities(q, k, scale):  # (B, KVH, group, T, T), of q (B, T, H, D) in groups
        q = q.unflatten(2, (k.shape[2], -1))
        s = scale * torch.einsum("bikgd,bjkd->bkgij", q, k)
        return s.masked_fill(torch.ones(s.shape[-2:]).triu(1).bool(), -torch.inf).softmax(-1)

    def forward(q, k, v, softmax_scale, causal, return_lse):
        p = probabilities(q, k, softmax_scale)
        out = torch.einsum("bkgij,bjkd->bikgd", p, v).reshape(q.shape)
        return out, q.new_zeros(q.shape[0], q.shape[2], q.shape[1]), None, None, None

    def backward(q, k, v, out, do, lse, softmax_scale, causal):
        p, groups = probabilities(q, k, softmax_scale), (k.shape[2], -1)
        do, grouped = do.unflatten(2, groups), q.unflatten(2, groups)
        dp = torch.einsum("bikgd,bjkd->bkgij", do, v)
        ds = softmax_scale * p * (dp - (p * dp).sum(-1, keepdim=True))
        return (torch.einsum("bkgij,bjkd->bikgd", ds, k).reshape(q.shape),
                torch.einsum("bkgij,bikgd->bjkd", ds, grouped),
                torch.einsum("bkgij,bikgd->bjkd", p, do))
    from aprnb.bench import fa4
    from aprnb.bench.torch_model import causal_model
    monkeypatch.setattr(fa4, "package", lambda: SimpleNamespace(_flash_attn_fwd=forward,
                                                                _flash_attn_bwd=backward))
    torch.manual_seed(0)
    model = causal_model(hf_config("qwen2"), torch.device("cpu"), Variant(attention="fa4"), LENGTH)
    logits, calls = traced(model)
    logits.square().mean().backward()
    got = [p.grad.clone() for p in model.parameters()]
    assert calls == 2
    model.zero_grad()
    model.set_attn_implementation("sdpa")
    plain = model(input_ids=torch.arange(2 * LENGTH).reshape(2, LENGTH)).logits
    plain.square().mean().backward()
    torch.testing.assert_close(logits, plain)
    torch.testing.assert_close(got, [p.grad for p in model.parameters()])


@with_torch
@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_expanded_grouped_and_packed_are_one_attention(direction, monkeypatch):
    """On the CPU, where SDPA's flash kernel runs too; heads of a group get the sum of gradients."""
    import torch

    from aprnb.bench.peers import Torch
    case = cases.Attention(direction, 2, 8, 4, 2, 16)
    qkv = torch.randn((2, 8, 8, 16), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)  # dO is that of each alike
    peer = Torch.__new__(Torch)
    peer.torch, peer.tensor = torch, lambda array: array
    found = peer.attentions(case, qkv)
    assert set(found) == {"flash", "flash grouped", "flash packed", "cuDNN", "cuDNN grouped",
                          "cuDNN packed", "FA4", "FA4 packed"}
    plain, grouped, packed = (found[name]()() for name in ("flash", "flash grouped",
                                                           "flash packed"))
    if direction == "bwd":
        plain = [plain[0], *(x.unflatten(1, (2, 2)).sum(2) for x in plain[1:])]
    torch.testing.assert_close(grouped, plain if direction == "fwd" else tuple(plain))
    torch.testing.assert_close(packed, grouped)


def test_a_peer_that_cannot_run_is_left_out_with_its_reason():
    from aprnb.bench.peers import Torch
    peer = Torch.__new__(Torch)
    peer.stream = SimpleNamespace(synchronize=lambda: None)

    def missing():
        raise ModuleNotFoundError("No module named 'quack'")

    def refuses():
        def call():
            raise RuntimeError("No available kernel.\nAborting")
        return call
    calls, absent = peer.usable({"good": lambda: int, "QuACK": missing, "cuDNN": refuses})
    assert calls == {"good": int}
    assert absent == {"QuACK": "ModuleNotFoundError: No module named 'quack'",
                      "cuDNN": "RuntimeError: No available kernel."}


@pytest.mark.gpu
@with_torch
@pytest.mark.parametrize("arguments", [
    ["gemm", "--cases", "o/*/2048"], ["attention", "--cases", "*/64/4x512"],
    ["memory", "--cases", "*norm*/2048"],
    ["step", "--cases", "4x512", "--preset", "llama-370m", "--torch-variant", "best,step-graph"]])
def test_a_bench_runs_beside_its_peers(arguments):
    result = aprnb_here("bench", *arguments, "--against", "torch", "--rounds", 2, "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert all(peer["median"] > 0 for r in rows for peer in r["peers"].values())
    if arguments[0] == "step":
        assert rows[0]["sides"]["step-graph"]["attention"] in ("cuDNN", "flash")
    elif arguments[0] != "memory":
        assert all("torch" in peer["how"] for r in rows for peer in r["peers"].values())


@with_torch
def test_a_row_beside_pytorch_says_what_ran_on_the_cpu():
    result = aprnb_here("bench", "step", "--cases", "1x8", "--preset", "tiny", "--device", "cpu",
                        "--rounds", 1, "--against", "eager", "--json")
    assert result.returncode == 0, result.stderr
    speed, memory, start = json.loads(result.stdout)["rows"]
    peer = speed["peers"]["torch eager fp32"]
    assert peer["median"] > 0 and peer["how"].startswith("eager; CPU attention; torch ")
    assert "transformers" in speed["sides"]["eager"]["versions"]
    assert start["compile_cache"] is None and memory["best_peer"] == "torch eager fp32"
