# SPDX-License-Identifier: Apache-2.0
"""Records what AutoCircuit 1.0.1 measures of scores beyond its circuits' outputs: same-under-knockouts
completeness and ROC points. tests/golden/metrics_golden.c compares with what this wrote.

    python measures.py [--goldens tests/golden/data] [--out tests/golden/data/measures]

Needs what eap_ig.py needs, and auto-circuit==1.0.1. Scores: the mask gradient at 0 on prompts 0..7;
knockouts: those scores negated, with a threshold; prompts 8..15 in two batches of 4.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import types

import torch as t
from auto_circuit.data import load_datasets_from_json
from auto_circuit.metrics.completeness_metrics.same_under_knockouts import same_under_knockout
from auto_circuit.metrics.official_circuits.measure_roc import measure_task_roc
from auto_circuit.prune_algos.mask_gradient import mask_gradient_prune_scores
from auto_circuit.utils.graph_utils import patchable_model
from transformers import PreTrainedTokenizerFast

from eap_ig import load

SIZES, THRESHOLDS = (10, 40, 90), (0.0, 0.01)


def main() -> None:
    here = pathlib.Path(__file__).resolve().parent.parent / "data"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--goldens", type=pathlib.Path, default=here)
    parser.add_argument("--out", type=pathlib.Path, default=here / "measures")
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True)
    for name in ("tiny-ioi", "tiny-rand"):
        folder = args.goldens / "models" / name
        model = load(folder, t.float32)
        model.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        train, test = load_datasets_from_json(
            model, args.goldens / "prompts" / "ioi_abba.json", t.device("cpu"), batch_size=4,
            train_test_size=(8, 8), shuffle=False, return_seq_length=True,
        )  # fmt: skip
        pm = patchable_model(model, factorized=True, slice_output="last_seq", separate_qkv=True, device=t.device("cpu"))
        scores = mask_gradient_prune_scores(
            pm, train, None, grad_function="logit", answer_function="avg_diff", mask_val=0.0
        )
        knockouts = {module: -array for module, array in scores.items()}
        task = types.SimpleNamespace(model=pm, test_loader=test)
        completeness = [
            [size, threshold, *same_under_knockout(task, scores, knockouts, size, threshold)[0]]
            for size in SIZES
            for threshold in THRESHOLDS
        ]
        order = sorted(pm.edges, key=lambda e: -abs(scores[e.dest.module_name][e.patch_idx].item()))
        reference = {edge for i, edge in enumerate(order[:60]) if i % 3 == 0}
        out = {
            "completeness": completeness,
            "roc": {
                "reference": sorted(edge.name for edge in reference),
                "points": [list(point) for point in measure_task_roc(pm, reference, scores)],
            },
        }
        (args.out / f"{name}.json").write_text(json.dumps(out) + "\n")
        print(name, completeness)


if __name__ == "__main__":
    main()
