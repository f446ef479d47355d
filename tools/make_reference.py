#!/usr/bin/env python3
"""Write a parity reference of a Hugging Face folder with PyTorch and transformers, in float32.

    tools/make_reference.py MODEL_FOLDER TOKENS -o reference.npz [--prompt "def fib(n):\\n    "]
    tools/make_reference.py MODEL_FOLDER TOKENS -o reference.npz --stages [only]

TOKENS: a .bin shard (u32) or an .npz with heldout_tokens, at least 8 x 513 ids that the model was
not trained on. The keys are those that aprnb/train/parity.py lists and, with --stages, those of
aprnb/proof/bisect/probes.py: every intermediate result of a short window, which `aprnb bisect`
reads.
Needs torch and transformers, which the package itself never imports.
"""
import argparse

import numpy as np
import reference_stages
from frameworks import AutoModelForCausalLM, AutoTokenizer, require, torch

WINDOW, SHORT, STEPS, NEW_TOKENS = 513, 256, 20, 64


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model", help="Hugging Face folder")
    p.add_argument("tokens", help=".bin shard (u32), or .npz with heldout_tokens")
    p.add_argument("-o", "--output", required=True, help=".npz that is written")
    p.add_argument("--prompt", default="def fib(n):\n    ", help="text to continue greedily")
    p.add_argument("--stages", nargs="?", const="also", choices=["also", "only"],
                   help="write every stage of the first 2 x 33 tokens too; only: nothing else, for "
                        "which 66 tokens and no tokenizer are needed")
    args = p.parse_args()
    require()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    model.eval()
    tokens = read_tokens(args.tokens)
    out = stages(model, tokens) if args.stages else {}
    if args.stages != "only":
        out |= parity_reference(model, tokens, args)
    np.savez_compressed(args.output, **out)
    print(f"{args.output}: {len(out)} arrays")


def parity_reference(model, tokens, args):
    """The keys that parity reads."""
    windows = torch.from_numpy(tokens[:8 * WINDOW].reshape(8, WINDOW)).long()
    with torch.no_grad():
        out = {"heldout_tokens": tokens, **activations(model, windows[:2, :128]),
               "heldout_losses": heldout(model, windows), **greedy(model, args)}
    return out | gradients(model, windows[:4, :SHORT]) | trajectory(model, windows[:, :SHORT])


def stages(model, tokens):
    """The keys that bisect reads."""
    sequences, length = reference_stages.SEQUENCES, reference_stages.POSITIONS + 1
    window = torch.from_numpy(tokens[:sequences * length].reshape(sequences, length)).long()
    return reference_stages.stages(model, window)


def read_tokens(path):
    if path.endswith(".npz"):
        return np.load(path)["heldout_tokens"].astype(np.int32)
    return np.fromfile(path, "<u4").astype(np.int32)


def loss_of(model, batch):
    """Mean cross-entropy in nats of predicting every next token of a batch."""
    logits = model(batch[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def activations(model, ids):
    out = model(ids, output_hidden_states=True)
    hidden = torch.stack(out.hidden_states)
    return {"input_ids": ids.numpy(), "hidden_first8": hidden[..., :8].numpy(),
            "hidden_mean": hidden.double().mean((1, 2, 3)).numpy(),
            "hidden_std": hidden.double().std((1, 2, 3), unbiased=False).numpy(),
            "logits_last": out.logits[:, -4:].numpy()}


def heldout(model, windows):
    return np.array([loss_of(model, w[None]).item() for w in windows])


def greedy(model, args):
    ids = AutoTokenizer.from_pretrained(args.model)(args.prompt, return_tensors="pt").input_ids
    for _ in range(NEW_TOKENS):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return {"greedy": ids.numpy()}


def gradients(model, batch):
    model.zero_grad()
    loss = loss_of(model, batch)
    loss.backward()
    grads = {n: p.grad.numpy().copy() for n, p in model.named_parameters()}
    out = {"grad_loss": np.float64(loss.item())}
    for name, g in grads.items():
        out[f"gradnorm/{name}"] = np.float64(np.linalg.norm(g.astype(np.float64)))
        if g.size <= 1 << 16:
            out[f"grad/{name}"] = g
    return out


def trajectory(model, windows):
    optimiser = torch.optim.AdamW(model.parameters(), 3e-4, (0.9, 0.95), 1e-8, weight_decay=0.1)
    losses, norms = [], []
    for i in range(STEPS):
        optimiser.zero_grad()
        loss = loss_of(model, windows[i % 4 * 2:i % 4 * 2 + 2])
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimiser.step()
        losses.append(loss.item())
    return {"traj_loss": np.array(losses), "traj_gradnorm": np.array(norms)}


if __name__ == "__main__":
    main()
