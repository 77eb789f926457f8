# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/data/families: one small model a family, and what a reference makes of it.

    python3 -m venv v && v/bin/pip install torch transformers tracr-pypi==1.0.0 jax dm-haiku safetensors
    v/bin/python tests/golden/families.py
    python3 -m venv w && w/bin/pip install "transformer-lens<3" safetensors
    w/bin/python tests/golden/families.py hooked

  gpt-neox        random, two layers, a rotary half; Hugging Face transformers computes the reference
  gpt-neox-seq    the same with use_parallel_residual false
  llama           random, two layers, four heads over two key-value heads; likewise
  tracr-reverse, tracr-xproportion
                  compiled by Tracr, converted by ablate.tracr; Tracr itself computes the reference
  hooked-parallel random, folded layer norms, parallel blocks, a part of each head rotated;
                  TransformerLens computes the reference, ablate.hooked converts
  hooked-grouped  random, RMS norms, grouped queries, logits of another width; likewise
  attn-only       random, two layers of attention with layer norms; computed here in float64
  micro           AutoCircuit's MicroModel; computed here in float64, and by hand in the test

Each folder: config.json, model.safetensors, expected.safetensors (tokens, logits, and
"resid_post.L" the residual stream behind block L).
"""

import importlib.util
import json
import pathlib
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/golden/data/families"


def client_module(name):
    """A module of the Python client by itself: the client's own dependencies are not needed here."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"clients/python/src/ablate/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(name, config, tensors, expected):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = {key: np.ascontiguousarray(value, dtype=np.float32) for key, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    arrays = {key: np.ascontiguousarray(value) for key, value in expected.items()}
    arrays["tokens"] = arrays["tokens"].astype(np.int32)
    for key, value in arrays.items():
        if key != "tokens":
            arrays[key] = value.astype(np.float32)
    save_file(arrays, folder / "expected.safetensors")
    print(name, {key: value.shape for key, value in arrays.items()})


def gpt_neox(name, parallel):
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(7)
    config = GPTNeoXConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=32, use_parallel_residual=parallel,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        attn_implementation="eager",
    )
    model = GPTNeoXForCausalLM(config).eval()
    for parameter in model.parameters():  # the initializer's biases are 0 and its gains 1
        parameter.data += 0.2 * torch.randn_like(parameter)
    tokens = torch.randint(0, 40, (2, 9))
    write_hugging_face(name, model, tokens)


def llama():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, intermediate_size=24, max_position_embeddings=32,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    write_hugging_face("llama", model, torch.randint(0, 40, (2, 9)))


def write_hugging_face(name, model, tokens):
    import torch

    with torch.no_grad():
        out = model(tokens, output_hidden_states=True)
    # hidden_states: embedding, behind each block but the last, then the normed last one.
    expected = {"tokens": tokens.numpy(), "logits": out.logits.numpy(),
                "resid_post.0": out.hidden_states[1].numpy()}
    with tempfile.TemporaryDirectory() as folder:  # the names of files, which state_dict's are not
        model.save_pretrained(folder)
        saved = pathlib.Path(folder)
        plain = json.loads((saved / "config.json").read_text())
        write(name, plain, load_file(saved / "model.safetensors"), expected)


def tracr_programs():
    from tracr.compiler import compiling
    from tracr.compiler.lib import make_frac_prevs
    from tracr.rasp import rasp

    everything = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE)
    opposite = rasp.SelectorWidth(everything) - rasp.indices - 1
    flip = rasp.Select(rasp.indices, opposite, rasp.Comparison.EQ)
    common = {"max_seq_len": 5, "compiler_bos": "BOS"}
    yield "tracr-reverse", compiling.compile_rasp_to_model(
        rasp.Aggregate(flip, rasp.tokens), vocab={1, 2, 3}, **common
    ), [[1, 2, 3, 3, 1], [2, 2, 1, 3, 2], [3, 1, 1, 2, 1]]
    yield "tracr-xproportion", compiling.compile_rasp_to_model(
        make_frac_prevs(rasp.tokens == "x"), vocab={"w", "x", "y", "z"}, **common
    ), ["wxxyz", "xwxwx", "zyxwx"]


def tracr_models():
    convert = client_module("tracr").convert
    for name, assembled, prompts in tracr_programs():
        config, tensors = convert(assembled)
        rows = [assembled.input_encoder.encode(["BOS", *prompt]) for prompt in prompts]
        runs = [assembled.apply(["BOS", *prompt]) for prompt in prompts]
        final = np.concatenate([np.asarray(run.transformer_output) for run in runs])
        expected = {"tokens": np.array(rows), "logits": final @ tensors["unembed.W_U"]}
        for layer in range(config["n_layers"]):  # residuals: behind attention, behind the MLP, ...
            expected[f"resid_post.{layer}"] = np.concatenate(
                [np.asarray(run.residuals[2 * layer + 1]) for run in runs]
            )
        config["input_vocab"] = {str(k): v for k, v in assembled.input_encoder.encoding_map.items()}
        if assembled.output_encoder is not None and hasattr(assembled.output_encoder, "encoding_map"):
            config["output_vocab"] = {
                str(k): v for k, v in assembled.output_encoder.encoding_map.items()
            }
        for prompt, run in zip(prompts, runs):
            print(name, prompt, "->", run.decoded)
        write(name, config, tensors, expected)


def hooked():
    import torch
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    common = {"n_layers": 2, "d_model": 16, "n_ctx": 12, "d_head": 4, "n_heads": 4, "d_mlp": 20,
              "d_vocab": 20, "device": "cpu", "positional_embedding_type": "rotary"}
    cases = {
        "hooked-parallel": {"act_fn": "gelu_new", "normalization_type": "LNPre", "rotary_dim": 2,
                            "parallel_attn_mlp": True},
        "hooked-grouped": {"act_fn": "silu", "normalization_type": "RMS", "rotary_dim": 4,
                           "n_key_value_heads": 2, "d_vocab_out": 7, "final_rms": True},
    }
    for name, case in cases.items():
        torch.manual_seed(3)
        model = HookedTransformer(HookedTransformerConfig(**common, **case))
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        tokens = torch.randint(0, 20, (2, 7))
        with torch.no_grad():
            logits, cache = model.run_with_cache(tokens)
        config, tensors = client_module("hooked").convert(model)
        expected = {"tokens": tokens.numpy(), "logits": logits.numpy()}
        for layer in range(2):
            expected[f"resid_post.{layer}"] = cache["resid_post", layer].numpy()
        write(name, config, {key: value.numpy() for key, value in tensors.items()}, expected)


def reference(config, tensors, tokens):
    """An attention-only model in float64, by definition; the residual behind each block, logits."""
    t = {key: np.asarray(value, dtype=np.float64) for key, value in tensors.items()}
    seq = tokens.shape[1]
    x = t["embed.W_E"][tokens] + t["pos_embed.W_pos"][:seq]

    def norm(x, part):
        if config["normalization_type"] is None:
            return x
        centred = x - x.mean(-1, keepdims=True)
        xhat = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config["eps"])
        return xhat * t[f"{part}.w"] + t[f"{part}.b"]

    behind = []
    for layer in range(config["n_layers"]):
        block = f"blocks.{layer}"
        y = norm(x, f"{block}.ln1")
        q, k, v = (
            np.einsum("bpm,hmd->bhpd", y, t[f"{block}.attn.W_{c}"])
            + t[f"{block}.attn.b_{c}"][None, :, None, :]
            for c in "QKV"
        )
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(config["d_head"])
        if config["attention_dir"] == "self":
            pattern = np.broadcast_to(np.eye(seq), scores.shape)
        else:
            scores = np.where(np.tril(np.ones((seq, seq))) > 0, scores, -np.inf)
            pattern = np.exp(scores - scores.max(-1, keepdims=True))
            pattern /= pattern.sum(-1, keepdims=True)
        x = x + np.einsum("bhpd,hdm->bpm", pattern @ v, t[f"{block}.attn.W_O"])
        x = x + t[f"{block}.attn.b_O"]
        behind.append(x)
    return behind, norm(x, "ln_final") @ t["unembed.W_U"] + t["unembed.b_U"]


def attn_only():
    rng = np.random.default_rng(5)
    layers, heads, d, d_head, vocab, ctx = 2, 3, 16, 6, 24, 16
    config = {
        "model_type": "hooked_transformer", "n_layers": layers, "n_heads": heads, "d_model": d,
        "d_head": d_head, "n_ctx": ctx, "d_vocab": vocab, "attn_only": True, "eps": 1e-5,
        "normalization_type": "LN", "attention_dir": "causal",
    }
    shapes = {"embed.W_E": (vocab, d), "pos_embed.W_pos": (ctx, d), "unembed.W_U": (d, vocab),
              "unembed.b_U": (vocab,), "ln_final.w": (d,), "ln_final.b": (d,)}
    for layer in range(layers):
        block = {"ln1.w": (d,), "ln1.b": (d,), "attn.W_O": (heads, d_head, d), "attn.b_O": (d,)}
        for c in "QKV":
            block[f"attn.W_{c}"] = (heads, d, d_head)
            block[f"attn.b_{c}"] = (heads, d_head)
        shapes.update({f"blocks.{layer}.{key}": shape for key, shape in block.items()})
    tensors = {key: (0.4 * rng.standard_normal(shape)).astype(np.float32)
               for key, shape in shapes.items()}
    tokens = rng.integers(0, vocab, (2, 8))
    behind, logits = reference(config, tensors, tokens)
    expected = {f"resid_post.{layer}": x for layer, x in enumerate(behind)}
    write("attn-only", config, tensors, {"tokens": tokens, "logits": logits, **expected})


def micro():
    weights = [[[1.0, 2.0], [3.0, 4.0]]] * 2
    config, tensors = client_module("micro").convert(weights, [[1, 1], [0, 1], [2, -1]], n_ctx=4)
    tokens = np.array([[0, 1, 2], [2, 2, 0]])
    behind, logits = reference(config, tensors, tokens)
    expected = {f"resid_post.{layer}": x for layer, x in enumerate(behind)}
    write("micro", config, tensors, {"tokens": tokens, "logits": logits, **expected})


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["neox", "llama", "tracr", "attn-only", "micro"]
    if "neox" in wanted:
        gpt_neox("gpt-neox", True)
        gpt_neox("gpt-neox-seq", False)
    if "llama" in wanted:
        llama()
    if "tracr" in wanted:
        tracr_models()
    if "hooked" in wanted:
        hooked()
    if "attn-only" in wanted:
        attn_only()
    if "micro" in wanted:
        micro()
