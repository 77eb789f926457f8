# SPDX-License-Identifier: Apache-2.0
"""Records EAP-IG scores of the two tiny models, computed by autograd on TransformerLens in float64:
the definitions of the EAP-IG 2.0 repository written down anew, hook by hook, with nothing shared
with core/. tests/golden/eap_golden.c compares with what this wrote into tests/golden/data/eap_ig.

    python eap_ig.py [--goldens tests/golden/data] [--out tests/golden/data/eap_ig]

Needs torch, transformers, safetensors and transformer-lens==2.15.4. Prompts: the first 8 of
ioi_abba as recorded token ids, in two batches of 4; weights processed as AutoCircuit does.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import torch as t
import transformer_lens as tl
from safetensors.torch import load_file, save_file
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2LMHeadModel

BATCH, ROWS = 4, 8
CASES = {  # name: (method, steps)
    "inputs_n5": ("inputs", 5),
    "inputs_n1": ("inputs", 1),
    "activations_n3": ("activations", 3),
    "clean_corrupted": ("clean_corrupted", 0),
}


def load(folder: pathlib.Path, dtype: t.dtype = t.float64) -> tl.HookedTransformer:
    hf = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    c = hf.config
    cfg = tl.HookedTransformerConfig(
        n_layers=c.n_layer, d_model=c.n_embd, n_ctx=c.n_positions, d_head=c.n_embd // c.n_head,
        n_heads=c.n_head, d_mlp=4 * c.n_embd, act_fn="gelu_new", d_vocab=c.vocab_size,
        eps=c.layer_norm_epsilon, normalization_type="LNPre", device="cpu", dtype=dtype,
    )
    model = tl.HookedTransformer(cfg, move_to_device=False)
    state = convert_gpt2_weights(hf, cfg)
    state = {k: v.to(dtype if v.is_floating_point() else v.dtype).clone() for k, v in state.items()}
    model.load_and_process_state_dict(
        state, fold_ln=True, center_writing_weights=True, center_unembed=True, fold_value_biases=True
    )
    model.cfg.use_split_qkv_input = model.cfg.use_attn_result = model.cfg.use_hook_mlp_in = True
    for p in model.parameters():
        p.requires_grad_(False)
    return model.to(dtype)


def source_hooks(model: tl.HookedTransformer) -> list[tuple[str, list[int]]]:
    """Hook of each group of sources, in AutoCircuit's order, and the sources' indices."""
    groups, at = [("hook_embed", [0])], 1
    for i in range(model.cfg.n_layers):
        groups.append((f"blocks.{i}.attn.hook_result", list(range(at, at + model.cfg.n_heads))))
        groups.append((f"blocks.{i}.hook_mlp_out", [at + model.cfg.n_heads]))
        at += model.cfg.n_heads + 1
    return groups


def outputs(model: tl.HookedTransformer, tokens: t.Tensor) -> dict[str, t.Tensor]:
    names = [name for name, _ in source_hooks(model)]
    return model.run_with_cache(tokens, names_filter=names)[1].cache_dict


def stack(model: tl.HookedTransformer, acts: dict[str, t.Tensor]) -> t.Tensor:
    """(batch, pos, sources, d_model)"""
    parts = [acts[name] if acts[name].ndim == 4 else acts[name].unsqueeze(2) for name, _ in source_hooks(model)]
    return t.cat(parts, dim=2)


def destinations(model: tl.HookedTransformer) -> list[tuple[str, int]]:
    """Hook of each destination module and how many sources it reads."""
    out, at = [], 1
    for i in range(model.cfg.n_layers):
        out += [(f"blocks.{i}.hook_{c}_input", at) for c in "qkv"]
        out.append((f"blocks.{i}.hook_mlp_in", at + model.cfg.n_heads))
        at += model.cfg.n_heads + 1
    out.append((f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", at))
    return out


def gradients(model, tokens, answers, wrong, place, value) -> dict[str, t.Tensor]:
    """d loss / d destination inputs of a pass in which `place` emits the constant `value`."""
    kept: dict[str, t.Tensor] = {}

    def keep(x, hook):
        kept[hook.name] = x
        x.retain_grad()

    def emit(x, hook):
        return value.clone().requires_grad_(True)

    start = [("hook_embed", lambda x, hook: x.requires_grad_(True))]
    hooks = start + [(place, emit)] + [(name, keep) for name, _ in destinations(model)]
    logits = model.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1]
    loss = -(logits.gather(1, answers) - logits.gather(1, wrong)).mean()
    loss.backward()
    # No path from a replaced output back to what it was made of: no gradient there.
    return {name: t.zeros_like(x) if x.grad is None else x.grad for name, x in kept.items()}


def points(model, method: str, steps: int):
    """(place, share of clean) of every pass."""
    if method == "clean_corrupted":
        return [("hook_embed", 1.0), ("hook_embed", 0.0)]
    if method == "inputs":
        return [("hook_embed", k / steps) for k in range(steps)]
    return [(name, k / steps) for name, _ in source_hooks(model) for k in range(1, steps + 1)]


def scores(model, data, method: str, steps: int) -> dict[str, t.Tensor]:
    shapes = destinations(model)
    total = {
        name: t.zeros((model.cfg.n_heads, n) if "_input" in name else (n,), dtype=t.float64) for name, n in shapes
    }
    passes = points(model, method, steps)
    for first in range(0, ROWS, BATCH):
        rows = slice(first, first + BATCH)
        clean_tokens = data["tokens_clean"][rows].long()
        clean = outputs(model, clean_tokens)
        corrupt = outputs(model, data["tokens_corrupt"][rows].long())
        difference = stack(model, corrupt) - stack(model, clean)
        for place, share in passes:
            value = share * clean[place] + (1 - share) * corrupt[place]
            grads = gradients(
                model, clean_tokens, data["answers"][rows].long().view(-1, 1),
                data["wrong_answers"][rows].long().view(-1, 1), place, value,
            )  # fmt: skip
            for name, n in shapes:
                d, g = difference[:, :, :n], grads[name]
                total[name] += t.einsum("bpsd,bphd->hs" if g.ndim == 4 else "bpsd,bpd->s", d, g)
    return {name: (x / (ROWS * len(passes))).float() for name, x in total.items()}


def main() -> None:
    here = pathlib.Path(__file__).resolve().parent.parent / "data"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--goldens", type=pathlib.Path, default=here)
    parser.add_argument("--out", type=pathlib.Path, default=here / "eap_ig")
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True)
    for name in ("tiny-ioi", "tiny-rand"):
        model = load(args.goldens / "models" / name)
        data = load_file(args.goldens / "cases" / name / "a_logits.safetensors")
        arrays = {
            f"{case}/{module}": x.contiguous()
            for case, (method, steps) in CASES.items()
            for module, x in scores(model, data, method, steps).items()
        }
        save_file(arrays, args.out / f"{name}.safetensors", metadata={"cases": json.dumps(CASES)})
        print(name, {case: max(x.abs().max().item() for k, x in arrays.items() if k.startswith(case)) for case in CASES})


if __name__ == "__main__":
    main()
