# SPDX-License-Identifier: Apache-2.0
"""Recorded numbers of AutoCircuit, all the way through the wire. (tests/golden compares far more, in
process; this is to see that nothing on the way bends a number.)
"""

import json

import ablate
import numpy as np
import pytest
from daemon import ROOT, goldens

safetensors = pytest.importorskip("safetensors.numpy", reason="reads the recorded numbers")
LOGITS_ATOL = 1e-4
SCORES_RTOL_OF_MAX = 2e-5


def recorded(case):
    path = goldens() / "cases" / "tiny-ioi" / f"{case}.safetensors"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in the compact set; set ABLATE_GOLDENS for all cases")
    return safetensors.load_file(path)


def report(name, ours, theirs, tolerance):
    worst = float(np.abs(ours - theirs).max())
    print(f"{name}: largest difference {worst:.3g}, tolerance {tolerance:.3g}")
    assert ours.shape == theirs.shape and worst <= tolerance, name


@pytest.mark.parametrize(("variant", "fixture"), [("raw", "tiny"), ("proc", "tiny_tl")])
def test_logits(variant, fixture, request, ioi_path):
    model, want = request.getfixturevalue(fixture), recorded("a_logits")
    for side in ("clean", "corrupt"):
        tokens = want[f"tokens_{side}"]
        texts = [pair[side] for pair in json.loads(ioi_path.read_text())["prompts"][:8]]
        np.testing.assert_array_equal(model.to_tokens(texts, prepend_bos=True), tokens)
        last = model(tokens, slice_output="last_seq")
        report(f"{variant}_last/{side}", last, want[f"{variant}_last/{side}"], LOGITS_ATOL)
        report(f"{variant}/{side}", model(tokens[:2]), want[f"{variant}/{side}"], LOGITS_ATOL)


@pytest.mark.parametrize(
    ("case", "algo"),
    [
        ("eap", "eap"),
        ("mg_logit_avg_diff_ig10", ablate.MaskGradient(integrated_grad_samples=10)),
        ("mg_logit_avg_val_m0.7", ablate.MaskGradient("logit", "avg_val", mask_val=0.7)),
    ],
)
def test_scores(tiny_tl, ioi, case, algo):
    want = recorded("d_scores_proc_fact_qkv")
    graph = tiny_tl.graph()
    scores = graph.prune_scores(
        ioi, algo, batch_size=4, prompt_count=8, prepend_bos=True, progress=False
    )
    graph.delete()
    theirs = {name: want[f"{case}/{name}"] for name in scores}
    largest = max(np.abs(array).max() for array in theirs.values())
    for name, array in scores.items():
        report(f"{case}/{name}", array, theirs[name], SCORES_RTOL_OF_MAX * largest)


@pytest.mark.parametrize(
    ("case", "algo"),
    [
        ("inputs_n5", ablate.EAPIG(steps=5)),
        ("activations_n3", ablate.EAPIG("activations", 3)),
        ("clean_corrupted", ablate.EAPIG("clean_corrupted")),
    ],
)
def test_eap_ig(tiny_tl, ioi, case, algo):
    """Autograd's numbers, which are in this tree whatever the recorded ones are."""
    path = ROOT / "tests" / "golden" / "data" / "eap_ig" / "tiny-ioi.safetensors"
    want = safetensors.load_file(path)
    graph = tiny_tl.graph()
    scores = graph.prune_scores(
        ioi, algo, batch_size=4, prompt_count=8, prepend_bos=True, progress=False
    )
    graph.delete()
    theirs = {name: want[f"{case}/{name}"] for name in scores}
    largest = max(np.abs(array).max() for array in theirs.values())
    for name, array in scores.items():
        report(f"{case}/{name}", array, theirs[name], SCORES_RTOL_OF_MAX * largest)
