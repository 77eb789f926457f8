# SPDX-License-Identifier: Apache-2.0
"""Beside the released TransformerLens: version 4's RemoteBridge on the daemon against its own bridge on
the same weights, and models of versions 2 and 3 that go up. Phase `lens` of tests/run.py has them all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ablate
import pytest
from ablate.auto_circuit.utils.graph_utils import patchable_model
from daemon import goldens

torch = pytest.importorskip("torch", reason="phase lens has it")
pytest.importorskip("transformer_lens.model_bridge", reason="phase lens has TransformerLens")

from transformer_lens.model_bridge import TransformerBridge  # noqa: E402
from transformer_lens.model_bridge.driver_protocol import Driver, validate_driver  # noqa: E402

OLDER = sorted(Path(sys.prefix).glob("transformer-lens-*"))
TOKENS = torch.tensor([[3, 41, 7, 19, 22], [8, 30, 5, 11, 49]])
STEER = torch.arange(128) * 0.1
EDITS = [
    ("blocks.1.hook_out", {"op": "suppress", "pos": 1}, lambda x: x.index_fill(1, torch.tensor([1]), 0)),
    ("blocks.2.mlp.hook_out", {"op": "scale", "factor": 2.0}, lambda x: 2 * x),
    ("blocks.0.hook_out", {"op": "add", "value": STEER.tolist()}, lambda x: x + STEER),
    ("blocks.1.attn.hook_out", {"op": "set", "value": 0.25}, lambda x: torch.full_like(x, 0.25)),
]


@pytest.fixture(scope="module")
def local():
    folder = str(goldens() / "models" / "tiny-ioi")
    return TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def remote(shared_daemon):
    with ablate.connect(shared_daemon.grpc) as client:
        model = client.load_model("tiny-ioi", progress=False)
        yield ablate.transformer_lens.boot(model, str(goldens() / "models" / "tiny-ioi"))


def close(ours, theirs):
    finite = torch.isfinite(ours)  # masked scores are -inf here, and as low as can be there
    assert ours.shape == theirs.shape and (theirs[~finite] < -1e30).all()
    torch.testing.assert_close(ours[finite], theirs[finite], atol=1e-4, rtol=0)


def test_the_driver_is_one(remote):
    assert isinstance(remote._driver, Driver)
    validate_driver(remote._driver, after_bridge_construction=True)


@torch.no_grad()
def test_every_hook_point_that_both_have(local, remote):
    logits, cache = remote.run_with_cache(TOKENS)
    expected, expected_cache = local.run_with_cache(TOKENS)
    close(logits, expected)
    names = [name for name in cache.keys() if name in expected_cache.keys()]
    assert len(names) > 80, names
    for name in names:
        close(cache[name], expected_cache[name])


@torch.no_grad()
@pytest.mark.parametrize("name, spec, edit", EDITS, ids=[spec["op"] for _, spec, _ in EDITS])
def test_interventions(local, remote, name, spec, edit):
    ours = remote.forward(TOKENS, intervene={name: spec})
    theirs = local.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda x, hook: edit(x))])
    assert (theirs - local(TOKENS)).abs().max() > 1e-2, "an edit that changes nothing shows nothing"
    close(ours, theirs)


@torch.no_grad()
def test_loss(local, remote):
    text = "When Mary and John"
    close(remote.forward(text, return_type="loss"), local(text, return_type="loss"))


UPLOAD = """
import sys
import transformers
transformers.TRANSFORMERS_CACHE = None  # version 2 wants the name
import torch, transformer_lens
from ablate.auto_circuit.utils.graph_utils import patchable_model
config = transformer_lens.HookedTransformerConfig(
    n_layers=2, d_model=16, n_heads=2, d_head=8, d_mlp=32, n_ctx=12, d_vocab=20, act_fn="gelu_new", seed=0
)
hooked = transformer_lens.HookedTransformer(config)
tokens = torch.arange(20).reshape(2, 10)
model = patchable_model(hooked, True, "last_seq", separate_qkv=True)
torch.testing.assert_close(model(tokens), hooked(tokens, prepend_bos=False), atol=1e-4, rtol=0)
assert len(model.srcs) == 1 + 2 * 2 + 2
model.graph.delete()
print("agrees under", transformer_lens.__file__)
"""


@pytest.mark.parametrize("folder", OLDER, ids=lambda folder: folder.name)
def test_a_hooked_transformer_goes_up(daemon, folder):
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "ABLATE_HOST": daemon.grpc}
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD], env=environment, capture_output=True, text=True, timeout=300
    )
    assert f"agrees under {folder}" in done.stdout, done.stderr[-4000:]


def test_a_bridge_says_what_goes_up_instead(local):
    with pytest.raises(TypeError, match=r"TransformerBridge has taken .* from_pretrained"):
        patchable_model(local, True, "last_seq", separate_qkv=True)


def test_both_older_versions_are_there():
    assert [folder.name.split("-")[-1][0] for folder in OLDER] == ["2", "3"]
