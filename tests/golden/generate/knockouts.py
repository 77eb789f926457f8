# SPDX-License-Identifier: Apache-2.0
"""Records trainings of knockouts by AutoCircuit 1.0.1, train_same_under_knockout_prune_scores:
tests/golden/knockouts_golden.c and tests/e2e/test_training.py compare with what this wrote.

    python knockouts.py [--goldens tests/golden/data] [--out tests/golden/data/knockouts]

Needs what eap_ig.py needs, and auto-circuit==1.0.1. The circuit: the 40 best edges by the mask
gradient at 0 on prompts 0..7; the knockouts are trained on prompts 8..15 in two batches of 4. What
hard_concrete draws is prescribed: element i of a tensor has u = frac((i + 1) * 0.618...).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import types

import plotly.graph_objects as go
import torch as t
from auto_circuit.data import load_datasets_from_json
from auto_circuit.metrics.completeness_metrics import train_same_under_knockouts as trained
from auto_circuit.prune_algos.mask_gradient import mask_gradient_prune_scores
from auto_circuit.utils import patch_wrapper
from auto_circuit.utils.graph_utils import patchable_model
from auto_circuit.utils.tensor_ops import left, right, temp
from transformers import PreTrainedTokenizerFast

from eap_ig import load

CIRCUIT_SIZE, EPOCHS, LEARNING_RATE = 40, 5, 0.1
RUNS = {
    # Without a regularizer and through a sigmoid nothing is drawn: any seed repeats these.
    "sigmoid_kl": {"mask_fn": "sigmoid", "regularize_lambda": 0},
    "sigmoid_logit_diff": {"mask_fn": "sigmoid", "regularize_lambda": 0, "faithfulness_target": "logit_diff"},
    "sigmoid_regularized": {"mask_fn": "sigmoid", "regularize_lambda": 1},
    "hard_concrete_kl": {"regularize_lambda": 1},
    "hard_concrete_logit_diff": {"regularize_lambda": 0.5, "faithfulness_target": "logit_diff"},
}


def sample(mask: t.Tensor, batch_size: int, mask_expanded: bool = False) -> t.Tensor:
    """AutoCircuit's sample_hard_concrete with prescribed draws."""
    rows = mask if mask_expanded else mask.repeat(batch_size, *([1] * mask.ndim))
    numbers = t.arange(1, rows.numel() + 1, dtype=t.float64) * 0.6180339887498949
    u = (numbers - numbers.floor()).float().reshape(rows.shape).clamp(0.0001, 0.9999)
    s = t.sigmoid((u.log() - (1 - u).log() + rows) / temp)
    return (s * (right - left) + left).clamp(0.0, 1.0)


def main() -> None:
    here = pathlib.Path(__file__).resolve().parent.parent / "data"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--goldens", type=pathlib.Path, default=here)
    parser.add_argument("--out", type=pathlib.Path, default=here / "knockouts")
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True)
    patch_wrapper.sample_hard_concrete = trained.sample_hard_concrete = sample
    t.optim.adam = types.SimpleNamespace(Adam=t.optim.Adam)  # torch 2.15 has no such module
    figures: list[go.Figure] = []
    go.Figure.show = lambda figure: figures.append(figure)
    name = "tiny-rand"
    folder = args.goldens / "models" / name
    model = load(folder, t.float32)
    model.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    train, test = load_datasets_from_json(
        model, args.goldens / "prompts" / "ioi_abba.json", t.device("cpu"), batch_size=4,
        train_test_size=(8, 8), shuffle=False, return_seq_length=True,
    )  # fmt: skip
    pm = patchable_model(model, factorized=True, slice_output="last_seq", separate_qkv=True, device=t.device("cpu"))
    scores = mask_gradient_prune_scores(pm, train, None, grad_function="logit", answer_function="avg_diff", mask_val=0.0)
    task = types.SimpleNamespace(name=name, model=pm, test_loader=test)
    algo = types.SimpleNamespace(name="mask gradient")
    out = {
        "circuit_size": CIRCUIT_SIZE,
        "epochs": EPOCHS,
        "learning_rate": LEARNING_RATE,
        "scores": {module: array.flatten().tolist() for module, array in scores.items()},
        "order": list(pm.patch_masks),
        "runs": {},
    }
    for key, config in RUNS.items():
        masks = trained.train_same_under_knockout_prune_scores(
            task, algo, scores, CIRCUIT_SIZE, LEARNING_RATE, EPOCHS, **config
        )
        curves = {trace.name: list(trace.y) for trace in figures[-1].data}
        out["runs"][key] = {
            "config": config,
            "curves": curves,
            "masks": {module: array.flatten().tolist() for module, array in masks.items()},
        }
        print(key, {line: (values[0], values[-1]) for line, values in curves.items()})
    (args.out / f"{name}.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
