# SPDX-License-Identifier: Apache-2.0
"""PatchableModel, member by member, beside what AutoCircuit's own had (docs/patchable_model.md)."""

import json

import ablate
import numpy as np
import pytest
from daemon import goldens

GRAPHS = {
    "b_graph_proc_fact_qkv": {"factorized": True, "separate_qkv": True},
    "b_graph_proc_fact_qkv_seq": {"factorized": True, "separate_qkv": True, "seq_len": 16},
    "b_graph_proc_fact_noqkv": {"factorized": True, "separate_qkv": False},
    "b_graph_proc_unfact": {"factorized": False},
    "b_graph_proc_unfact_seq": {"factorized": False, "seq_len": 16},
}


@pytest.fixture(scope="module")
def rand_tl(client):
    return client.load_model("tiny-rand", "tl", progress=False)


@pytest.fixture
def patchable(rand_tl):
    made = ablate.patchable_model(rand_tl, True, "last_seq", separate_qkv=True)
    yield made
    made.graph.delete()


@pytest.fixture
def tokens():
    return np.arange(20).reshape(2, 10)


def fields(node, *more):
    names = ("name", "module_name", "layer", "head_idx", "head_dim", "weight", "weight_head_dim", *more)
    return {name: getattr(node, name) for name in names}


@pytest.mark.parametrize("case", GRAPHS)
def test_nodes_edges_and_wrappers_are_autocircuits(daemon, rand_tl, case):
    path = goldens() / "cases" / "tiny-rand" / f"{case}.json"
    recorded = json.loads(path.read_text())
    model = ablate.patchable_model(rand_tl, slice_output="last_seq", **GRAPHS[case])
    assert model.seq_dim == recorded["seq_dim"] and model.seq_len == recorded["seq_len"]
    assert str(model.out_slice) == recorded["out_slice"]
    assert model.n_edges == recorded["n_edges"] == len(model.edges)
    srcs = sorted(model.srcs, key=lambda node: node.src_idx)
    assert [fields(node, "src_idx") for node in srcs] == recorded["srcs"]
    dests = {node.name: fields(node, "min_src_idx") for node in model.dests}
    assert dests == {node["name"]: node for node in recorded["dests"]}
    assert len(model.nodes) == recorded["n_nodes"]
    assert sorted(model.edge_dict, key=str) == sorted(recorded["edge_dict_keys"], key=str)
    first = next(iter(model.edge_dict.values()))
    seq = 0 if model.seq_len is None else 1  # the recorded indices are without the position
    assert [[e.name, e.dest.module_name, list(e.patch_idx[seq:])] for e in first] == recorded["edges"]
    assert {name: list(mask.shape) for name, mask in model.patch_masks.items()} == recorded["patch_mask_shapes"]
    received = {w.module_name: [w.in_srcs.start, w.in_srcs.stop] for w in model.dest_wrappers}
    assert received == recorded["in_srcs"]
    sent = {w.module_name: [w.src_idxs.start, w.src_idxs.stop] for w in model.src_wrappers}
    assert sent == recorded["src_idxs"]
    assert model.wrappers == model.src_wrappers | model.dest_wrappers
    model.graph.delete()


def test_what_it_says_of_itself(patchable, rand_tl):
    assert patchable.is_factorized and patchable.is_transformer and patchable.separate_qkv
    assert patchable.kv_caches is None and patchable.wrapped_model is rand_tl
    assert patchable.cfg.n_layers == 2 and patchable.cfg.d_model == 32
    assert patchable.blocks[1].attn.W_Q.shape == (4, 32, 8)
    text = "Then, Alice and Emma went"
    assert patchable.tokenizer.decode(patchable.tokenizer.encode(text)) == text
    assert patchable.tokenizer(text)["input_ids"] == patchable.tokenizer.encode(text)
    assert patchable.to_string(patchable.to_tokens(text, prepend_bos=False)) == [text]
    assert "".join(patchable.to_str_tokens(text, prepend_bos=False)) == text
    assert "".join(patchable.tokenizer.tokenize(text)) == text


def test_passes_are_the_models_until_patch_mode(patchable, rand_tl, tokens):
    clean, corrupt = rand_tl(tokens), rand_tl(tokens[::-1].copy())
    np.testing.assert_array_equal(patchable(tokens), clean)
    assert patchable(tokens)[patchable.out_slice].shape == (2, patchable.cfg.d_vocab)
    patchable.set_patch_masks(1.0)
    np.testing.assert_array_equal(patchable.forward(tokens), clean)
    with patchable.patch_mode(ablation_input=tokens[::-1].copy()):
        np.testing.assert_allclose(patchable(tokens), corrupt, atol=1e-5)
        logits, cache = patchable.run_with_cache(tokens, ["blocks.1.hook_mlp_in"])
        np.testing.assert_allclose(logits, corrupt, atol=1e-5)
        assert cache["blocks.1.hook_mlp_in"].shape == (2, 10, 32)
    assert all((mask == 1).all() for mask in patchable.patch_masks.values())  # as AutoCircuit's patch_mode
    np.testing.assert_array_equal(patchable(tokens), clean)
    embedded = patchable.input_to_embed(tokens)
    assert embedded[0].shape == (2, 10, 32)


def test_two_users_of_one_model_never_see_each_other(patchable, rand_tl, tokens):
    other = ablate.patchable_model(rand_tl, True, "last_seq", separate_qkv=True)
    patchable.set_patch_masks(1.0)
    hook = patchable.add_hook("blocks.0.hook_resid_post", "zero")
    assert hook is not None
    with other.patch_mode("zero"):
        np.testing.assert_array_equal(other(tokens), rand_tl(tokens))
    assert not np.array_equal(patchable(tokens), rand_tl(tokens))
    patchable.reset_hooks()
    np.testing.assert_array_equal(patchable(tokens), rand_tl(tokens))
    other.graph.delete()


def test_scores_from_edges_names_and_masks(patchable):
    flat = patchable.new_prune_scores(init_val=2.5)
    assert all((np.asarray(values) == 2.5).all() for values in flat.values())
    edges = patchable.edge_dict[None]
    chosen = {edges[0], edges[40]}
    scores = patchable.circuit_prune_scores(edges=chosen, bool=True)
    assert sum(int(values.sum()) for values in scores.values()) == 2
    assert all(edge.prune_score(scores) for edge in chosen)
    by_name = patchable.circuit_prune_scores(edge_dict={edges[3].name: -0.5})
    assert edges[3].prune_score(by_name) == -0.5
    patchable.set_patch_masks({edges[7]: 0.25, edges[8].name: 1.0})
    current = patchable.current_patch_masks_as_prune_scores()
    assert edges[7].prune_score(current) == 0.25 and edges[7].patch_mask(patchable)[edges[7].patch_idx] == 0.25
    assert patchable.edge_name_dict[None][edges[8].name] is edges[8]


def test_a_cached_prefix_serves_every_batch_size(rand_tl, tokens):
    cache = rand_tl.kv_cache(tokens[:1, :4])
    model = ablate.patchable_model(rand_tl, True, "last_seq", separate_qkv=True, kv_caches=(cache,))
    same = np.concatenate([tokens[:1], tokens[:1]])
    whole = rand_tl(same)
    np.testing.assert_allclose(model(same), whole[:, 4:], atol=1e-5)
    assert model.kv_caches[2] is cache and model.kv_caches[1] is cache
    assert dict(model.kv_caches) == {1: cache} and len(model.kv_caches) == 1 and 5 in model.kv_caches
    with pytest.raises(KeyError):
        model.kv_caches[0]
    model.graph.delete()
    cache.delete()


def test_a_factorized_transformer_needs_separate_qkv(rand_tl):
    with pytest.raises(ValueError, match="separate_qkv"):
        ablate.patchable_model(rand_tl, True)
