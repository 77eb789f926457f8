#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records tests/golden/data/hooks: interventions and gradients of TransformerLens, and of
AutoCircuit's patched passes, for hooks_golden. Values and masks are formulas that both sides
compute, so only results are recorded.

    pip install transformer-lens==2.15.4 auto-circuit==1.0.1 'transformers<5' torch safetensors
    record_hooks.py
"""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
import transformer_lens as tl
from safetensors.numpy import load_file, save_file
from transformers import GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_llama_weights

warnings.filterwarnings("ignore")
DATA = Path(__file__).parent / "data"
OUT = DATA / "hooks"
ROWS, POSITIONS, COLUMNS = 2, 5, 12
OPS = ["zero", "mean", "set", "patch", "add", "scale", "clamp", "project_out"]
PLACES = [
    "hook_embed", "hook_pos_embed", "hook_resid_pre", "hook_attn_in", "hook_q_input",
    "hook_k_input", "hook_v_input", "ln1.hook_scale", "ln1.hook_normalized", "attn.hook_q",
    "attn.hook_k", "attn.hook_v", "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z",
    "attn.hook_result", "hook_attn_out", "hook_resid_mid", "hook_mlp_in", "ln2.hook_scale",
    "ln2.hook_normalized", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out", "hook_resid_post",
    "ln_final.hook_scale", "ln_final.hook_normalized",
]  # fmt: skip
LLAMA_PLACES = [
    "hook_q_input", "hook_k_input", "ln1.hook_scale", "ln1.hook_normalized", "attn.hook_k",
    "attn.hook_v", "attn.hook_rot_q", "attn.hook_rot_k", "attn.hook_pattern", "attn.hook_result",
    "ln2.hook_normalized", "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post",
    "ln_final.hook_normalized",
]  # fmt: skip
GROUPED = ("hook_k", "hook_v", "hook_rot_k", "hook_k_input", "hook_v_input")


# --- models ---------------------------------------------------------------------------------


def gpt2(folder):
    hf = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    c = hf.config
    cfg = tl.HookedTransformerConfig(
        n_layers=c.n_layer, d_model=c.n_embd, d_head=c.n_embd // c.n_head, n_heads=c.n_head,
        d_mlp=4 * c.n_embd, n_ctx=c.n_positions, d_vocab=c.vocab_size, eps=c.layer_norm_epsilon,
        act_fn="gelu_new", normalization_type="LN", original_architecture="GPT2LMHeadModel",
        device="cpu", seed=0)  # fmt: skip
    return hooked(cfg, convert_gpt2_weights(hf, cfg))


def llama(folder):
    if not (folder / "config.json").exists():
        torch.manual_seed(3)
        config = LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=4, vocab_size=50, max_position_embeddings=32,
            rms_norm_eps=1e-5, initializer_range=0.3, tie_word_embeddings=False, torch_dtype="float32")  # fmt: skip
        made = LlamaForCausalLM(config)
        for name, weight in made.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(weight, 0.5, 1.5)
        made.save_pretrained(folder)
    hf = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    c = hf.config
    cfg = tl.HookedTransformerConfig(
        n_layers=c.num_hidden_layers, d_model=c.hidden_size, d_head=4, n_heads=4,
        n_key_value_heads=2, d_mlp=c.intermediate_size, n_ctx=32, d_vocab=c.vocab_size,
        eps=c.rms_norm_eps, act_fn="silu", normalization_type="RMS", gated_mlp=True,
        positional_embedding_type="rotary", rotary_dim=4, rotary_base=10000,
        rotary_adjacent_pairs=False, final_rms=True, original_architecture="LlamaForCausalLM",
        device="cpu", seed=0)  # fmt: skip
    return hooked(cfg, convert_llama_weights(hf, cfg))


def hooked(cfg, state):
    model = tl.HookedTransformer(cfg, move_to_device=False)
    model.load_and_process_state_dict(
        {k: v.clone() for k, v in state.items()}, fold_ln=False, center_writing_weights=False,
        center_unembed=False, fold_value_biases=False)  # fmt: skip
    return model.eval()


def flags(model, attn_in=False, split=False):
    cfg = model.cfg
    cfg.use_attn_result = cfg.use_hook_mlp_in = True
    cfg.use_attn_in, cfg.use_split_qkv_input = attn_in, split


# --- interventions --------------------------------------------------------------------------


def values(width, index, positive):
    wave = np.sin(0.7 * np.arange(width) + 0.3 * index)
    return (1.5 + 0.5 * wave if positive else wave).astype(np.float32)


def make_case(index, name):
    """A place and a selection, which goes round with the index."""
    tail = name.rsplit(".", 1)[-1]
    by_head = tail in ("hook_q", "hook_z", "hook_result", "hook_q_input", "hook_attn_in",
                       "hook_attn_scores", "hook_pattern", "hook_rot_q") + GROUPED  # fmt: skip
    case = {"name": name, "index": index, "heads": [], "positions": [], "rows": []}
    kind = index % 4
    if kind in (1, 3) and by_head:
        case["heads"] = [1] if kind == 1 or tail in GROUPED else [2, 0]
    if kind == 1:
        case["rows"] = [1]
    if kind in (2, 3):
        case["positions"] = [-1, 2] if kind == 2 else [1]
    return case


def operate(case, x, cached):
    op, index = case["op"], case["index"]
    tail = case["name"].rsplit(".", 1)[-1]
    pos_dim, head_dim = (2, 1) if tail in ("hook_attn_scores", "hook_pattern") else (1, 2)
    grid = [np.arange(n) for n in x.shape]
    for key, dim in (("rows", 0), ("positions", pos_dim), ("heads", head_dim)):
        if case[key]:
            grid[dim] = np.array(case[key]) % x.shape[dim]
    where = np.ix_(*grid)
    part = x[where]
    value = torch.from_numpy(values(x.shape[-1], index, tail == "hook_scale"))
    if op == "zero":
        part = torch.zeros_like(part)
    elif op == "mean":
        over = {0: (0,), 1: (pos_dim,), 2: (0, pos_dim)}[index % 3]
        part = part.mean(dim=over, keepdim=True).expand_as(part)
    elif op == "set":
        part = value.expand_as(part)
    elif op == "patch":
        part = cached[where]
    elif op == "add":
        part = part + 0.8 * value
    elif op == "scale":
        part = 1.7 * part
    elif op == "clamp":
        part = part.clamp(-0.2, 0.3) if tail != "hook_scale" else part.clamp(0.5, 1.0)
    elif op == "project_out":
        part = part - (part @ value)[..., None] * value / (value @ value)
    out = x.clone()
    out[where] = part
    return out


def run_cases(model, places, clean, corrupt, arrays, prefix):
    cases, logits, grads = [], [], []
    for at, place in enumerate(places):
        layer = at % model.cfg.n_layers
        outside = place.startswith("ln_final") or place in ("hook_embed", "hook_pos_embed")
        name = place if outside else f"blocks.{layer}.{place}"
        tail = name.rsplit(".", 1)[-1]
        flags(model, attn_in=tail == "hook_attn_in",
              split=tail in ("hook_q_input", "hook_k_input", "hook_v_input"))  # fmt: skip
        _, other = model.run_with_cache(corrupt, names_filter=[name])
        for op in OPS:
            if op == "project_out" and tail == "hook_attn_scores":
                continue
            if op in ("zero", "project_out") and tail == "hook_scale":
                continue  # a division by zero
            case = make_case(len(cases), name)
            case["op"] = op
            start = []

            def at_embed(x, hook):
                x.requires_grad_(True) if x.is_leaf else x.retain_grad()
                start.append(x)
                return x

            def intervene(x, hook):
                return operate(case, x, other[name])

            with model.hooks(fwd_hooks=[(name, intervene), ("hook_embed", at_embed)]):
                out = model(clean)
                loss = model.loss_fn(out, clean)
                loss.backward()
            cases.append(case)
            logits.append(out[:, -1, :COLUMNS].detach().numpy())
            grads.append(start[0].grad.sum(1).numpy())
    arrays[f"{prefix}/logits"] = np.stack(logits)
    arrays[f"{prefix}/grads"] = np.stack(grads)
    return cases


# --- gradients ------------------------------------------------------------------------------


def all_gradients(model, clean, scalar, names_filter):
    """Gradients at hook points; those of a point that fires three times for q, k and v added."""
    found = {}

    def keep(grad, hook):
        found[hook.name] = found.get(hook.name, 0) + grad.detach()

    names = [n for n in model.hook_dict if names_filter(n)]
    with model.hooks(bwd_hooks=[(n, keep) for n in names]):
        value = scalar(model(clean))
        value.backward()
    return float(value), found


def run_gradients(model, clean, arrays, prefix):
    info = {}

    def loss(out):
        return model.loss_fn(out, clean)

    def logit_sum(out):
        last = out[:, -1]
        return (0.5 * last[:, 3] - 0.5 * last[:, 7] - 0.125 * last[0, 7]).sum()

    def plain(name):
        return ".0." not in name and not name.endswith(("hook_attn_in", "_input"))

    def inputs(name):
        return name.endswith(("_input", "hook_result", "hook_mlp_in")) and ".1." in name

    for key, scalar, split, names in (("loss", loss, False, plain), ("split", loss, True, inputs),
                                      ("logit_sum", logit_sum, False, lambda n: n.endswith("resid_pre"))):
        flags(model, split=split)
        value, found = all_gradients(model, clean, scalar, names)
        info[key] = {"value": value, "names": list(found)}
        for name, grad in found.items():
            arrays[f"{prefix}/{key}/{name}"] = grad.expand(ROWS, *grad.shape[1:]).contiguous().numpy()
    return info


# --- AutoCircuit's patched passes -----------------------------------------------------------


def run_patched(model, clean, corrupt, arrays):
    from auto_circuit.types import AblationType
    from auto_circuit.utils.ablation_activations import src_ablations
    from auto_circuit.utils.graph_utils import patch_mode, patchable_model

    flags(model, attn_in=True, split=True)
    graph = patchable_model(model, factorized=True, slice_output=None, separate_qkv=True, device=torch.device("cpu"))
    order = {"hook_q_input": 0, "hook_k_input": 1, "hook_v_input": 2, "hook_mlp_in": 3}

    def rank(wrapper):
        name = wrapper.module_name
        tail = name.rsplit(".", 1)[-1]
        last = tail == "hook_resid_post"
        return (99, 0) if last else (int(name.split(".")[1]), order[tail])

    count = 0
    for wrapper in sorted(graph.dest_wrappers, key=rank):
        mask = wrapper.patch_mask
        wave = 0.5 + 0.5 * np.sin(0.37 * (count + np.arange(mask.numel())))
        mask.data = torch.from_numpy(wave.astype(np.float32)).reshape(mask.shape)
        count += mask.numel()
    other = src_ablations(graph, corrupt, AblationType.RESAMPLE)
    captured = ["blocks.1.hook_q_input", "blocks.1.attn.hook_pattern", "blocks.1.hook_mlp_in",
                "blocks.0.attn.hook_z", "blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre",
                "blocks.1.hook_resid_post", "blocks.1.ln1.hook_normalized", "ln_final.hook_scale"]  # fmt: skip
    gradients = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid", "blocks.0.attn.hook_z",
                 "blocks.0.attn.hook_result", "blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre",
                 "blocks.1.hook_k_input", "blocks.1.attn.hook_pattern", "blocks.1.hook_mlp_in",
                 "blocks.1.hook_resid_post"]  # fmt: skip
    wrapped = graph.wrapped_model
    keep, found = {}, {}
    fwd = [(n, lambda x, hook: keep.__setitem__(hook.name, x.detach())) for n in captured]
    bwd = [(n, lambda g, hook: found.__setitem__(hook.name, g.detach())) for n in gradients]
    with patch_mode(graph, other), wrapped.hooks(fwd_hooks=fwd, bwd_hooks=bwd):
        out = graph(clean)
        loss = model.loss_fn(out, clean)
        loss.backward()
    arrays["patched/logits"] = out[:, -1, :COLUMNS].detach().numpy()
    for name in captured:
        arrays[f"patched/{name}"] = keep[name].contiguous().numpy()
    for name in gradients:
        arrays[f"patched/{name}_grad"] = found[name].contiguous().numpy()
    cases, logits, grads = [], [], []
    places = ["hook_embed", "blocks.0.hook_resid_pre", "blocks.0.hook_q_input", "blocks.0.attn.hook_z",
              "blocks.0.attn.hook_result", "blocks.0.hook_attn_out", "blocks.0.hook_resid_mid",
              "blocks.0.hook_mlp_in", "blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre",
              "blocks.1.attn.hook_pattern", "blocks.1.hook_resid_post"]  # fmt: skip
    for place in places:
        for op in ("scale", "set", "mean"):
            case = make_case(len(cases), place)
            case["op"] = op
            found = {}
            bwd = [("hook_embed", lambda g, hook: found.__setitem__(hook.name, g.detach()))]
            fwd = [(place, lambda x, hook: operate(case, x, None))]
            with patch_mode(graph, other), wrapped.hooks(fwd_hooks=fwd, bwd_hooks=bwd):
                out = graph(clean)
                model.loss_fn(out, clean).backward()
            cases.append(case)
            logits.append(out[:, -1, :COLUMNS].detach().numpy())
            grads.append(found["hook_embed"].sum(1).numpy())
    arrays["patched/cases/logits"] = np.stack(logits)
    arrays["patched/cases/grads"] = np.stack(grads)
    return {"loss": float(loss), "captured": captured, "gradients": gradients, "cases": cases}


def main():
    torch.set_num_threads(2)
    OUT.mkdir(exist_ok=True)
    arrays, info = {}, {"rows": ROWS, "positions": POSITIONS, "columns": COLUMNS}
    inputs = load_file(DATA / "cases" / "tiny-rand" / "a_logits.safetensors")
    clean, corrupt = (
        torch.from_numpy(inputs[f"tokens_{side}"][:ROWS, :POSITIONS].astype(np.int64))
        for side in ("clean", "corrupt")
    )
    model = gpt2(DATA / "models" / "tiny-rand")
    info["gpt2"] = {"tokens": clean.tolist(), "other": corrupt.tolist()}
    info["gpt2"]["cases"] = run_cases(model, PLACES, clean, corrupt, arrays, "gpt2")
    info["gpt2"]["gradients"] = run_gradients(model, clean, arrays, "gpt2")
    small = llama(OUT / "tiny-llama")
    tokens = torch.tensor([[3, 41, 7, 19, 22], [8, 30, 5, 11, 49]])
    other = torch.tensor([[9, 2, 33, 17, 40], [1, 26, 6, 12, 13]])
    info["llama"] = {"tokens": tokens.tolist(), "other": other.tolist()}
    info["llama"]["cases"] = run_cases(small, LLAMA_PLACES, tokens, other, arrays, "llama")
    info["llama"]["gradients"] = run_gradients(small, tokens, arrays, "llama")
    info["patched"] = run_patched(model, clean, corrupt, arrays)
    for part in info.values():  # empty selections are the default
        if isinstance(part, dict):
            part["cases"] = [{k: v for k, v in case.items() if v != []} for case in part["cases"]]
    text = json.dumps(info, separators=(",", ":"))
    (OUT / "cases.json").write_text(text.replace('{"name"', '\n{"name"') + "\n")
    save_file({k: np.ascontiguousarray(v, dtype=np.float32) for k, v in arrays.items()}, OUT / "cases.safetensors")


if __name__ == "__main__":
    main()
