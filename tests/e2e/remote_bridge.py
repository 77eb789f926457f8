#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""TransformerLens 4's RemoteBridge on the daemon against its own bridge on the same weights: every hook
point that both have, interventions, loss. By hand, because the package is large; ends with 0 if all agree.

    python3 -m venv v && v/bin/pip install 'transformer-lens>=4' ./clients/python
    v/bin/python tests/e2e/remote_bridge.py
"""

import torch
from daemon import BINARY, goldens
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.driver_protocol import Driver, validate_driver

import ablate

TOKENS = torch.tensor([[3, 41, 7, 19, 22], [8, 30, 5, 11, 49]])
STEER = torch.arange(128) * 0.1
EDITS = [
    ("blocks.1.hook_out", {"op": "suppress", "pos": 1}, lambda x: x.index_fill(1, torch.tensor([1]), 0)),
    ("blocks.2.mlp.hook_out", {"op": "scale", "factor": 2.0}, lambda x: 2 * x),
    ("blocks.0.hook_out", {"op": "add", "value": STEER.tolist()}, lambda x: x + STEER),
    ("blocks.1.attn.hook_out", {"op": "set", "value": 0.25}, lambda x: torch.full_like(x, 0.25)),
]


def check(what, ours, theirs, tolerance=1e-4):
    finite = torch.isfinite(ours)  # masked scores are -inf here, and as low as can be there
    assert ours.shape == theirs.shape and (theirs[~finite] < -1e30).all(), what
    difference = (ours - theirs)[finite].abs().max().item()
    print(f"{what}: {difference:.1e}")
    assert difference < tolerance, what


def main():
    folder = str(goldens() / "models" / "tiny-ioi")
    with ablate.local(daemon=BINARY, model_roots=[goldens() / "models"]) as client, torch.no_grad():
        remote = ablate.transformer_lens.boot(client.load_model("tiny-ioi", progress=False), folder)
        assert isinstance(remote._driver, Driver)
        validate_driver(remote._driver, after_bridge_construction=True)
        local = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)
        logits, cache = remote.run_with_cache(TOKENS)
        expected, expected_cache = local.run_with_cache(TOKENS)
        check("logits", logits, expected)
        names = [name for name in cache.keys() if name in expected_cache.keys()]
        assert len(names) > 80, names
        for name in names:
            check(name, cache[name], expected_cache[name])
        for name, spec, edit in EDITS:
            ours = remote.forward(TOKENS, intervene={name: spec})
            theirs = local.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda x, hook, edit=edit: edit(x))])
            assert (theirs - expected).abs().max() > 1e-2, "an edit that changes nothing shows nothing"
            check(f"{spec['op']} at {name}", ours, theirs)
        text = "When Mary and John"
        check("loss", remote.forward(text, return_type="loss"), local(text, return_type="loss"))


if __name__ == "__main__":
    main()
