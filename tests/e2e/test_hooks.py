# SPDX-License-Identifier: Apache-2.0
"""Hook points: of patched passes, intervened in, with gradients."""

import numpy as np

TOKENS = np.array([[1, 7, 3, 9, 4], [2, 5, 8, 6, 1]])
OTHER = np.array([[1, 9, 3, 2, 4], [2, 6, 8, 3, 1]])


def test_a_patched_pass_shows_its_hook_points(tiny, graph):
    names = ["hook_resid_post", "attn.hook_pattern", "hook_q_input", "hook_mlp_in", "hook_mlp_out"]
    names = [f"blocks.1.{name}" for name in names]
    _, plain = tiny.run_with_cache(TOKENS, names)
    logits, empty = graph.run_with_cache(TOKENS, names, ablation="zero", slice_output=None)
    for name in names:
        np.testing.assert_allclose(empty[name], plain[name], atol=1e-5)
    np.testing.assert_allclose(logits, tiny(TOKENS), atol=1e-4)
    graph.set_patch_mask(1.0)
    _, other = tiny.run_with_cache(OTHER, names)
    logits, full = graph.run_with_cache(
        TOKENS, names, ablation="resample", ablation_input=OTHER, slice_output=None
    )
    for name in names[1:]:
        np.testing.assert_allclose(full[name], other[name], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(logits, tiny(OTHER), atol=1e-4)
    graph.set_patch_mask({"A0.1->MLP 1": 1.0, "MLP 0->A1.2.Q": 0.5}, reset_others=True)
    logits, some = graph.run_with_cache(TOKENS, names, ablation="zero")
    np.testing.assert_allclose(logits, graph(TOKENS, ablation="zero"), atol=1e-5)
    reads = np.abs(some["blocks.1.hook_q_input"] - plain["blocks.1.hook_q_input"]).max((0, 1, 3))
    assert np.flatnonzero(reads > 1e-4).tolist() == [2], "only that head's input is patched"


def test_a_patched_pass_stops_at_a_layer(graph):
    graph.set_patch_mask(0.5)
    logits, cache = graph.run_with_cache(
        TOKENS, lambda name: name.endswith("hook_resid_pre") and ".0." in name, ablation="zero", stop_at_layer=1
    )
    assert logits is None and list(cache) == ["blocks.0.hook_resid_pre"]
