# SPDX-License-Identifier: Apache-2.0
"""What both sides compute on: a GPT-2 of random weights, prompts, masks, edges; the same every time."""

from __future__ import annotations

import json
import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "build" / "bench"

BATCH, SEQ, SEED = 8, 16, 0
EXACT_EDGES, EXACT_EDGES_PEER = 192, 6
SWEEP_SIZES = 20


def write_ids(path: Path, rows) -> Path:
    path.write_text("".join(" ".join(str(int(i)) for i in row) + "\n" for row in rows))
    return path


def write_gpt2() -> Path:
    """A Hugging Face folder of GPT-2 small's shape with random weights, the same every time."""
    import numpy as np
    from layout import Shape
    from safetensors.numpy import save_file

    shape, folder = Shape(), WORK / "gpt2-random"
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    width, tensors = shape.d_model, {}

    def weight(name, *size, scale=0.02):
        tensors[name] = (scale * rng.standard_normal(size)).astype(np.float32)

    def norm(name):
        weight(f"{name}.weight", width, scale=0.1)
        tensors[f"{name}.weight"] += 1
        weight(f"{name}.bias", width)

    weight("wte.weight", shape.vocab, width)
    weight("wpe.weight", shape.n_ctx, width)
    norm("ln_f")
    for layer in range(shape.layers):
        norm(f"h.{layer}.ln_1")
        norm(f"h.{layer}.ln_2")
        for name, inputs, outputs in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            # Fan-in scaling, so that heads and MLPs matter beside the embedding.
            weight(f"h.{layer}.{name}.weight", inputs, outputs, scale=0.5 / inputs**0.5)
            weight(f"h.{layer}.{name}.bias", outputs)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": shape.layers,
        "n_head": shape.heads, "n_embd": width, "n_positions": shape.n_ctx, "n_ctx": shape.n_ctx,
        "vocab_size": shape.vocab, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
        "bos_token_id": 50256, "eos_token_id": 50256, "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def write_tiny_inputs(model: Path) -> dict[str, str]:
    """Four prompts of the recorded task, by the ids recorded with it; every edge."""
    from layout import Shape
    from safetensors.numpy import load_file

    recorded = load_file(model.parents[1] / "cases" / model.name / "a_logits.safetensors")
    rows = slice(0, 4)
    answers = [[a, w] for a, w in zip(recorded["answers"][rows, 0], recorded["wrong_answers"][rows, 0])]
    order = Shape.of(model).acdc_order()
    return {
        "tokens": str(write_ids(WORK / "tiny-clean.ids", recorded["tokens_clean"][rows])),
        "corrupt": str(write_ids(WORK / "tiny-corrupt.ids", recorded["tokens_corrupt"][rows])),
        "answers": str(write_ids(WORK / "tiny-answers.ids", answers)),
        "edges": str(write_ids(WORK / "tiny-edges.ids", [[edge] for edge in order])),
    }


def write_inputs() -> dict[str, str]:
    import numpy as np
    from layout import Shape

    shape, rng = Shape(), np.random.default_rng(SEED + 1)
    mask = (rng.random(shape.edge_count) < 0.5).astype("<f4")
    mask.tofile(WORK / "mask.f32")
    # Scores of a sweep, all different, and its sizes: few, then more and more edges.
    rng.permutation(shape.edge_count).astype("<f4").tofile(WORK / "scores.f32")
    sizes = [1 + int((shape.edge_count - 1) * (i / (SWEEP_SIZES - 1)) ** 3) for i in range(SWEEP_SIZES)]
    edges = np.sort(rng.choice(shape.edge_count, EXACT_EDGES, replace=False))
    edges_peer = np.sort(rng.choice(edges, EXACT_EDGES_PEER, replace=False))
    return {
        "tokens": str(write_ids(WORK / "clean.ids", rng.integers(0, shape.vocab, (BATCH, SEQ)))),
        "corrupt": str(write_ids(WORK / "corrupt.ids", rng.integers(0, shape.vocab, (BATCH, SEQ)))),
        "answers": str(write_ids(WORK / "answers.ids", rng.integers(0, shape.vocab, (BATCH, 2)))),
        "mask": str(WORK / "mask.f32"),
        "edges": str(write_ids(WORK / "edges.ids", edges[:, None])),
        "scores": str(WORK / "scores.f32"),
        "sizes": str(write_ids(WORK / "sizes.ids", [[size] for size in sizes])),
        "edges_peer": str(write_ids(WORK / "edges-peer.ids", edges_peer[:, None])),
    }


def write_prefix_inputs(length: int, seq: int) -> dict[str, str]:
    """Prompts that share their first tokens."""
    import numpy as np
    from layout import Shape

    shape, rng = Shape(), np.random.default_rng(SEED + 2)
    shared = rng.integers(0, shape.vocab, (1, length)).repeat(BATCH, 0)
    tails = [rng.integers(0, shape.vocab, (BATCH, seq - length)) for _ in range(2)]
    clean, corrupt = (np.concatenate([shared, tail], 1) for tail in tails)
    return {
        "tokens": str(write_ids(WORK / "prefix-clean.ids", clean)),
        "corrupt": str(write_ids(WORK / "prefix-corrupt.ids", corrupt)),
        "answers": str(write_ids(WORK / "prefix-answers.ids", rng.integers(0, shape.vocab, (BATCH, 2)))),
    }


def smollm2() -> tuple[Path, Path] | None:
    """(the model's folder, the reference's script), where both are there."""
    reference = Path(os.environ.get("ABLATE_GOLDENS", ROOT.parent / "shared" / "goldens"))
    reference = reference / "cases" / "smollm2-135m" / "reference.py"
    for folder in (
        os.environ.get("ABLATE_SMOLLM2"),
        ROOT / "build" / "models" / "smollm2-135m",
        ROOT / "models" / "smollm2-135m",
    ):
        if folder and Path(folder, "model.safetensors").is_file() and reference.is_file():
            return Path(folder), reference
    return None


def write_smollm2_inputs(reference: Path) -> dict[str, str]:
    case = reference.parent / "ioi_ABBA_template_0" / "inputs.json"
    ids = json.loads(case.read_text())["token_ids"]
    first = [[a[0], w[0]] for a, w in zip(ids["answers"], ids["wrong_answers"])]
    return {
        "tokens": str(write_ids(WORK / "smollm2-clean.ids", ids["clean"])),
        "corrupt": str(write_ids(WORK / "smollm2-corrupt.ids", ids["corrupt"])),
        "answers": str(write_ids(WORK / "smollm2-answers.ids", first)),
    }
