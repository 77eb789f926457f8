# SPDX-License-Identifier: Apache-2.0
"""PatchableModel, member by member, beside what AutoCircuit's own had (docs/patchable_model.md)."""

import json
import re
from pathlib import Path

import ablate
import numpy as np
import pytest
from daemon import ROOT, goldens

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


MEMBERS = """
    nodes srcs dests edge_dict edge_name_dict edges n_edges seq_dim seq_len wrappers src_wrappers dest_wrappers
    patch_masks out_slice is_factorized is_transformer separate_qkv kv_caches wrapped_model forward run_with_cache
    add_hook reset_hooks cfg tokenizer input_to_embed blocks to_tokens to_str_tokens to_string new_prune_scores
    circuit_prune_scores current_patch_masks_as_prune_scores
""".split()
# Every field of TransformerLens 2.15.4's HookedTransformerConfig.
CFG = """
    n_layers d_model n_ctx d_head model_name n_heads d_mlp act_fn d_vocab eps use_attn_result use_attn_scale
    attn_scale use_split_qkv_input use_hook_mlp_in use_attn_in use_local_attn ungroup_grouped_query_attention
    original_architecture from_checkpoint checkpoint_index checkpoint_label_type checkpoint_value tokenizer_name
    window_size attn_types init_mode normalization_type device n_devices attention_dir attn_only seed
    initializer_range init_weights scale_attn_by_inverse_layer_idx positional_embedding_type final_rms d_vocab_out
    parallel_attn_mlp rotary_dim n_params use_hook_tokens gated_mlp default_prepend_bos dtype
    tokenizer_prepends_bos n_key_value_heads post_embedding_ln rotary_base trust_remote_code
    rotary_adjacent_pairs load_in_4bit num_experts experts_per_token relative_attention_max_distance
    relative_attention_num_buckets decoder_start_token_id tie_word_embeddings
    use_normalization_before_and_after attn_scores_soft_cap output_logits_soft_cap use_NTK_by_parts_rope
    NTK_by_parts_low_freq_factor NTK_by_parts_high_freq_factor NTK_by_parts_factor NTK_original_ctx_len
""".split()


def fields(node, *more):
    names = ("name", "module_name", "layer", "head_idx", "head_dim", "weight", "weight_head_dim", *more)
    return {name: getattr(node, name) for name in names}


def test_the_table_has_every_member_with_its_rpc_and_tests_that_exist(patchable):
    table = [line.split(" | ") for line in (ROOT / "docs" / "patchable_model.md").read_text().splitlines() if " | " in line]
    rows = [dict(zip(("members", "what", "rpcs", "tests"), row)) for row in table[1:]]
    listed = {member for row in rows for member in re.findall(r"`(\w+)`", row["members"])}
    assert set(MEMBERS) <= listed and [name for name in listed if not hasattr(patchable, name)] == []
    protos = "".join(path.read_text() for path in (ROOT / "proto" / "ablate" / "v1").glob("*.proto"))
    tests = {path.name: path.read_text() for path in Path(__file__).parent.glob("test_*.py")}
    for row in rows:
        for rpc in row["rpcs"].split(", "):
            assert f"rpc {rpc}(" in protos, row
        named = re.findall(r"`(test_\w+)(\.py)?`", row["tests"])
        assert named or "the same" in row["tests"], row
        for name, is_file in named:
            assert name + ".py" in tests if is_file else f"def {name}(" in tests["test_patchable.py"], row


# How methods are used; an attribute is read.
USES = {
    "forward": lambda m: (m.forward([[0, 1, 2]]), m([[0, 1, 2]], "loss"), m([[0, 1, 2]], stop_at_layer=1)),
    "run_with_cache": lambda m: m.run_with_cache([[0, 1, 2]]),
    "input_to_embed": lambda m: m.input_to_embed([[0, 1, 2]]),
    "add_hook": lambda m: m.add_hook("hook_embed", "zero"),
    "reset_hooks": lambda m: m.reset_hooks(),
    "blocks": lambda m: m.blocks[0].attn.W_Q,
    "tokenizer": lambda m: m.tokenizer.decode(m.tokenizer("a")["input_ids"]),
    "to_tokens": lambda m: m.to_tokens("a"),
    "to_str_tokens": lambda m: m.to_str_tokens("a"),
    "to_string": lambda m: m.to_string([1]),
    "new_prune_scores": lambda m: m.new_prune_scores(),
    "circuit_prune_scores": lambda m: m.circuit_prune_scores({"A0.0->MLP 1"}),
    "current_patch_masks_as_prune_scores": lambda m: m.current_patch_masks_as_prune_scores(),
}


def test_the_tables_rpcs_are_those_that_are_called(daemon):
    for line in (ROOT / "docs" / "patchable_model.md").read_text().splitlines():
        row = line.strip("| ").split(" | ")
        members = [name for name in re.findall(r"`(\w+)`", row[0]) if name in MEMBERS]
        if len(row) < 4 or not members:
            continue
        with ablate.connect(daemon.grpc, arrays="numpy") as fresh:
            calls, call = [], fresh._call
            fresh._call = lambda name, *rest, **options: (calls.append(name), call(name, *rest, **options))[1]
            wrapped = fresh.load_model("tiny-rand", progress=False)
            prefix = wrapped.kv_cache([[0]])
            model = ablate.patchable_model(wrapped, True, "last_seq", separate_qkv=True, kv_caches=(prefix,))
            begun = len(calls)
            for name in members:
                USES.get(name, lambda m, name=name: getattr(m, name))(model)
            listed = set(row[2].split(", "))
            assert set(calls[begun:]) <= listed <= set(calls), members
            model.graph.delete()
            prefix.delete()
            wrapped.unload()


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
    assert patchable.tokenizer.bos_token == patchable.to_str_tokens("", True)[0] == "<|endoftext|>"
    assert patchable.tokenizer.bos_token_id == 0 and len(patchable.tokenizer) == patchable.cfg.d_vocab
    with pytest.raises(AttributeError, match="on the daemon and has no 'padding_side' here; it has bos_token"):
        patchable.tokenizer.padding_side  # noqa: B018


def test_cfg_has_every_field(patchable):
    assert [name for name in CFG if not hasattr(patchable.cfg, name)] == []
    assert {name: patchable.cfg.to_dict()[name] for name in ("n_heads", "act_fn", "normalization_type", "d_mlp")} == {
        "n_heads": 4, "act_fn": "gelu_new", "normalization_type": "LNPre", "d_mlp": 128,
    }  # fmt: skip


def test_passes_take_transformerlenss_arguments(patchable, rand_tl, tokens):
    logits = patchable(tokens)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = -np.take_along_axis(logprobs[:, :-1], tokens[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(patchable(tokens, return_type="loss", loss_per_token=True), each, atol=1e-4)
    both = patchable(tokens, "both")
    np.testing.assert_array_equal(both.logits, logits)
    assert both.loss == pytest.approx(each.mean(), abs=1e-4) and patchable(tokens, None) is None
    text = "Then, Alice and Emma went"
    assert patchable(text, "loss") == pytest.approx(patchable(patchable.to_tokens(text), "loss"))
    _, cache = rand_tl.run_with_cache(tokens)
    for layer in (0, 1, 2, -1):
        name = "blocks.1.hook_resid_post" if layer == 2 else f"blocks.{layer % 2}.hook_resid_pre"
        np.testing.assert_allclose(patchable(tokens, stop_at_layer=layer), cache[name], atol=1e-5)
    nothing, embedded = patchable.run_with_cache(tokens, stop_at_layer=0, return_cache_object=False)
    assert nothing is None and set(embedded) == {"hook_embed", "hook_pos_embed"} and type(embedded) is dict
    loss, cache = patchable.run_with_cache(tokens, "blocks.0.hook_mlp_out", return_type="loss")
    assert loss == pytest.approx(both.loss) and list(cache) == ["blocks.0.hook_mlp_out"]
    prefix = rand_tl.kv_cache(tokens[:1, :4])
    same = np.concatenate([tokens[:1], tokens[:1]])
    tail = patchable(same, "both", past_kv_cache=prefix)
    np.testing.assert_allclose(tail.logits, patchable(same)[:, 4:], atol=1e-4)
    assert tail.loss == pytest.approx(each[0, 4:].mean(), abs=1e-4)
    prefix.delete()
    with pytest.raises(ValueError, match="'logits', 'loss', 'both' or None"):
        patchable(tokens, "mean")
    with pytest.raises(ValueError, match="a hook is data, not code"):
        patchable.add_hook("blocks.0.hook_mlp_out", lambda value, hook: value)
    with pytest.raises(ValueError, match="by its name"):
        patchable.add_hook(lambda name: name.endswith("mlp_out"), "zero")


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
