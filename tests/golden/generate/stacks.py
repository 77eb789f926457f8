#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records tests/golden/data/stacks.npz: what TransformerLens's ActivationCache makes of one pass, for
tests/e2e/test_cache.py. Its keys are the calls, which the test evaluates on Ablate's cache.

    pip install transformer-lens==2.15.4 'transformers<5' torch
    stacks.py
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from record_hooks import DATA, gpt2  # noqa: E402

warnings.filterwarnings("ignore")
TOKENS = [[3, 41, 7, 19, 22], [8, 30, 5, 11, 49]]
CALLS = [
    "stack_head_results(-1, incl_remainder=True, pos_slice=-1, apply_ln=True)",
    "stack_head_results(2, pos_slice=[1, 4])",
    "accumulated_resid(incl_mid=True, apply_ln=True, pos_slice=(3, 5))",
    "accumulated_resid(2, mlp_input=True, pos_slice=-1)",
    "decompose_resid(apply_ln=True, pos_slice=-1)",
    "decompose_resid(1, mlp_input=True, apply_ln=True, pos_slice=2)",
    "decompose_resid(mode='mlp', incl_embeds=False, pos_slice=slice(0, 2))",
    "decompose_resid(2, mode='attn', pos_slice=0)",
    "stack_activation('z', 2)",
    "apply_ln_to_stack(cache.decompose_resid(2), 2, mlp_input=False)[:, :, -1]",
    "apply_ln_to_stack(cache.decompose_resid(pos_slice=-1), pos_slice=-1, batch_slice=[1])",
    "logit_attrs(cache.decompose_resid(), 7)",
    "logit_attrs(cache.decompose_resid(pos_slice=-1), array([7, 11]), array([3, 5]), pos_slice=-1)",
    "logit_attrs(cache.accumulated_resid(), array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]))",
]
LABELS = [
    "stack_head_results(-1, incl_remainder=True, return_labels=True)",
    "accumulated_resid(incl_mid=True, return_labels=True)",
    "accumulated_resid(1, mlp_input=True, return_labels=True)",
    "decompose_resid(1, mlp_input=True, return_labels=True)",
    "decompose_resid(mode='mlp', incl_embeds=False, return_labels=True)",
]


def main():
    model = gpt2(DATA / "models" / "tiny-rand")
    model.cfg.use_attn_result = True
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor(TOKENS))
        names = {"cache": cache, "array": torch.tensor}
        out = {call: eval(f"cache.{call}", names).numpy() for call in CALLS}
        out |= {call: np.array(eval(f"cache.{call}", names)[1]) for call in LABELS}
    np.savez_compressed(DATA / "stacks.npz", tokens=np.array(TOKENS), **out)
    print(sum(a.nbytes for a in out.values()), (DATA / "stacks.npz").stat().st_size)


if __name__ == "__main__":
    main()
