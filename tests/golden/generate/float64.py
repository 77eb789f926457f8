#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes data/float64: AutoCircuit's mask gradients of tiny-ioi with everything in float64, stored as
float32, and prints how far its own float32 is from them.

    PYTHONHASHSEED=0 float64.py GOLDENS OUT_DIR     (AutoCircuit 1.0.1, TransformerLens 2.15.4)

GOLDENS is the reference data, whose generate.py makes the model. Eight prompts in batches of four; the
masks at 0, or where the case's name says so: at 0.7, or integrated over the eleven points of ig10.
"""

import argparse
import sys
from pathlib import Path

goldens, out = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(goldens / "generate"))
import generate  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

CASES = ("logit avg_diff", "logit mse", "prob avg_diff", "prob mse", "logprob avg_diff",
         "logprob avg_val", "logit_exp avg_diff", "logit mse m0.7", "logit mse ig10")  # fmt: skip
AT = {"m0.7": {"mask_val": 0.7}, "ig10": {"integrated_grad_samples": 10}}


def gradients(made, dtype):
    model, train, _ = made.pm(dtype=dtype)
    arrays = {}
    for case in CASES:
        grad_function, answer_function, *at = case.split()
        scores = generate.mask_gradient_prune_scores(
            model, train, None, grad_function=grad_function, answer_function=answer_function,
            **(AT[at[0]] if at else {"mask_val": 0.0}),
        )  # fmt: skip
        for module, values in scores.items():
            arrays[f"{case.replace(' ', '_')}/{module}"] = values.detach().numpy()
    return arrays


arguments = argparse.Namespace(
    model=goldens / "models/tiny-ioi", prompts=goldens / "prompts/ioi_abba.json",
    late=goldens / "prompts/ioi_late.json", out=out, seed=5,
)  # fmt: skip
made = generate.Gen(arguments)
exact, single = (gradients(made, dtype) for dtype in (torch.float64, torch.float32))
for case in CASES:
    prefix = case.replace(" ", "_") + "/"
    keys = [key for key in exact if key.startswith(prefix)]
    largest = max(np.abs(exact[key]).max() for key in keys)
    error = max(np.abs(exact[key] - single[key]).max() for key in keys)
    print(f"{case:18}  largest {largest:.3g}  AutoCircuit's float32 is off by {error / largest:.1e} of it")
out.mkdir(parents=True, exist_ok=True)
save_file({key: value.astype(np.float32) for key, value in exact.items()}, out / "tiny-ioi.safetensors")
