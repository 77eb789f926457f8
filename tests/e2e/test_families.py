# SPDX-License-Identifier: Apache-2.0
"""Every family from upload to scores: weights by name, configuration, wrappers, embeddings."""

from __future__ import annotations

import json
from types import SimpleNamespace

import ablate
import numpy as np
import pytest
from daemon import ROOT

FAMILIES = ROOT / "tests" / "golden" / "data" / "families"
NAMES = """gpt-neox gpt-neox-seq llama hooked-parallel hooked-grouped tracr-reverse tracr-xproportion
    attn-only micro""".split()


def tensors(path):
    """A float32 or int32 safetensors file as a dict; the tests need no library for that."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    types = {"F32": "<f4", "I32": "<i4"}
    return {
        name: np.frombuffer(
            data[8 + size + entry["data_offsets"][0] : 8 + size + entry["data_offsets"][1]],
            types[entry["dtype"]],
        ).reshape(entry["shape"])
        for name, entry in header.items()
    }


@pytest.fixture(params=NAMES)
def family(request, daemon, client):
    model = client.upload_model(FAMILIES / request.param, name=request.param, progress=False)
    yield model, tensors(FAMILIES / request.param / "expected.safetensors")
    model.unload()


def test_uploaded_families_compute_what_their_authors_compute(family):
    model, expected = family
    np.testing.assert_allclose(model.forward(expected["tokens"]), expected["logits"], atol=2e-5)
    last = model.forward(expected["tokens"], slice_output="last_seq")
    np.testing.assert_allclose(last, expected["logits"][:, -1], atol=2e-5)
    assert last.shape[-1] == model.cfg.d_vocab_out


def test_weights_by_name_compute_the_unembedding(family):
    model, expected = family
    _, cache = model.run_with_cache(expected["tokens"], [f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"])
    residual = cache["resid_post", -1]
    kind = model.cfg.normalization_type or ""
    if kind.startswith("LN"):
        residual = residual - residual.mean(-1, keepdims=True)
    if kind:
        residual = residual / np.sqrt((residual**2).mean(-1, keepdims=True) + model.cfg.eps)
    if "ln_final.w" in model.parameters():
        residual = residual * model.ln_final.w
    if "ln_final.b" in model.parameters():
        residual = residual + model.ln_final.b
    logits = residual @ model.unembed.W_U + model.unembed.b_U
    np.testing.assert_allclose(logits, expected["logits"], atol=5e-5)


def test_heads_by_name_compute_the_attention_output(family):
    model, expected = family
    _, cache = model.run_with_cache(expected["tokens"], ["blocks.0.attn.hook_z", "blocks.0.hook_attn_out"])
    attn = model.blocks[0].attn
    out = np.einsum("bphd,hdm->bpm", cache["z", 0], attn.W_O) + attn.b_O
    np.testing.assert_allclose(out, cache["attn_out", 0], atol=5e-5)
    shape = (model.cfg.n_heads, model.cfg.d_model, model.cfg.d_head)
    assert attn.W_Q.shape == attn.W_K.shape == attn.W_V.shape == shape
    assert attn.b_K.shape == (model.cfg.n_heads, model.cfg.d_head)


def test_every_listed_parameter_has_its_shape(family):
    model, _ = family
    for name, shape in model.parameters().shapes.items():
        assert model.parameters()[name].shape == shape, name
    assert list(model.state_dict()) == list(model.parameters())


def test_input_to_embed_is_what_block_0_reads(family):
    model, expected = family
    residual, tokens, shortformer, mask = model.input_to_embed(expected["tokens"])
    _, cache = model.run_with_cache(expected["tokens"], ["blocks.0.hook_resid_pre"])
    np.testing.assert_array_equal(residual, cache["resid_pre", 0])
    np.testing.assert_array_equal(tokens, expected["tokens"])
    assert shortformer is None and mask is None


def test_wrappers_cover_all_nodes(family):
    model, _ = family
    for options in ({}, {"separate_qkv": False}, {"seq_len": 3}):
        graph = model.graph(**options)
        sources = [i for w in graph.src_wrappers for i in range(w.src_idxs.start, w.src_idxs.stop)]
        assert sources == list(range(len([n for n in graph.nodes if n.is_source])))
        assert {w.module_name: w.mask_shape for w in graph.dest_wrappers} == graph.modules
        for wrapper in graph.wrappers:
            heads = wrapper.module_name.endswith(("hook_result", "_input", "attn_in"))
            assert wrapper.head_dim == (2 if heads else None)
            assert wrapper.seq_dim == (1 if graph.seq_len else None)
        graph.delete()


def test_scores_of_every_family(family):
    model, expected = family
    tokens = expected["tokens"]
    graph = model.graph()
    rng = np.random.default_rng(0)
    mask = {name: rng.random(shape).astype(np.float32) for name, shape in graph.modules.items()}
    graph.set_patch_mask(mask)
    other = tokens[::-1].copy()
    one = graph.forward(tokens, ablation="resample", ablation_input=other)
    two = graph.forward(tokens, ablation="resample", ablation_input=other)
    np.testing.assert_array_equal(one, two)
    graph.reset_patch_mask()
    plain = graph.forward(tokens, ablation="resample", ablation_input=other)
    np.testing.assert_allclose(plain, expected["logits"][:, -1], atol=2e-5)
    graph.delete()


def test_cfg_of_a_tracr_model(client, daemon):
    model = client.upload_model(FAMILIES / "tracr-reverse", name="reverse", progress=False)
    cfg = model.cfg
    assert (cfg.family, cfg.n_layers, cfg.d_model, cfg.d_head) == ("hooked_transformer", 4, 41, 12)
    assert (cfg.d_vocab, cfg.d_vocab_out, cfg.attention_dir) == (5, 3, "bidirectional")
    assert cfg.normalization_type is None and cfg.act_fn == "relu" and cfg.is_transformer
    assert cfg.n_params == 4 * (4 * 41 * 12 + 2 * 41 * 30)
    assert cfg.to_dict()["model_name"] == "reverse"
    graph = model.graph()
    assert graph.edge_count == 77
    graph.delete()
    with pytest.raises(ablate.FailedPreconditionError, match="no norms"):
        model.run_with_cache([[0, 1]], ["blocks.0.ln1.hook_scale"])
    model.unload()


def test_micro_model_by_hand(client, daemon):
    model = ablate.micro.upload(
        client, [[[1, 2], [3, 4]]] * 2, [[1, 1], [0, 1]], progress=False
    )
    assert not model.cfg.is_transformer and model.cfg.attn_only and model.cfg.act_fn is None
    np.testing.assert_array_equal(model.forward([[0, 1]]), [[[25, 49], [0, 49]]])
    np.testing.assert_array_equal(model.blocks[1].attn.W_V[0], [[1, 0], [0, 2]])
    graph = model.graph(separate_qkv=False)
    assert graph.edge_count == 13
    graph.set_patch_mask({"Resid Start->A1.1": 1.0})
    np.testing.assert_array_equal(graph.forward([[0]], ablation="resample", ablation_input=[[1]]), [[22, 49]])
    graph.delete()
    model.unload()


def test_grouped_weights_are_found_both_ways(client, daemon):
    model = client.upload_model(FAMILIES / "llama", name="grouped", progress=False)
    attn = model.blocks[-1].attn
    assert attn._W_K.shape[0] == 2 and attn.W_K.shape[0] == 4
    np.testing.assert_array_equal(attn.W_K, np.repeat(attn._W_K, 2, axis=0))
    assert "blocks.1.attn.W_K" not in model.parameters()
    assert not model.blocks[0].attn.b_Q.any()  # TransformerLens keeps zeros there
    with pytest.raises(AttributeError, match="W_X"):
        model.blocks[0].attn.W_X
    with pytest.raises(ablate.NotFoundError, match="attn.W_Q") as caught:
        model.parameters()["blocks.0.attn.W_X"]
    assert caught.value.reason == "PARAMETER_UNKNOWN"
    model.unload()


def test_processed_weights_are_what_is_served(client, daemon, tiny_tl, tiny):
    assert "blocks.0.ln1.w" in tiny.parameters() and "blocks.0.ln1.w" not in tiny_tl.parameters()
    assert tiny_tl.cfg.normalization_type == "LNPre"
    np.testing.assert_allclose(tiny_tl.unembed.W_U.mean(-1), 0, atol=1e-5)
    residual, tokens, _, _ = tiny.input_to_embed("Then, Alice and Bob")
    np.testing.assert_array_equal(tokens, tiny.to_tokens("Then, Alice and Bob"))
    np.testing.assert_array_equal(
        residual, tiny.embed.W_E[tokens] + tiny.pos_embed.W_pos[: tokens.shape[1]]
    )


def test_a_tracr_model_is_taken_apart_through_the_daemon(client, daemon):
    """Prompts are ids, as the compiled encoder gives them: there is no tokenizer."""
    model = client.upload_model(FAMILIES / "tracr-reverse", name="reverse", progress=False)
    graph = model.graph()
    bos = json.loads((FAMILIES / "tracr-reverse" / "config.json").read_text())["input_vocab"]["BOS"]
    prompts = [
        {
            "clean": [bos, *word],
            "corrupt": [bos, *[(i + 1) % 3 for i in word]],
            "answers": [word[0]],
            "wrong_answers": [(word[0] + 1) % 3],
        }
        for word in ([0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1])
    ]
    kept = client.upload_dataset({"prompts": prompts})
    scores = graph.prune_scores(kept, "ground_truth", batch_size=4, progress=False)
    flat = {edge.name: abs(scores[edge.module_name][edge.patch_idx]) for edge in graph.edges}
    top = sorted(flat, key=flat.get)[-2:]
    assert set(top) == {"Resid Start->A3.0.V", "A3.0->Resid End"}
    assert max(value for name, value in flat.items() if name not in top) < 1e-5 < flat[top[0]]
    text = client.upload_dataset(
        {"prompts": [{"clean": "a", "corrupt": "b", "answers": ["c"], "wrong_answers": ["d"]}]}
    )
    with pytest.raises(ablate.FailedPreconditionError) as caught:
        graph.prune_scores(text, batch_size=1, progress=False)
    assert caught.value.reason == "TOKENIZER_MISSING"
    beyond = client.upload_dataset({"prompts": [prompts[0] | {"answers": [bos]}]})
    with pytest.raises(ablate.InvalidArgumentError, match="answer id 3"):  # an input's, no output's
        graph.prune_scores(beyond, batch_size=1, progress=False)
    graph.delete()
    model.unload()


def test_a_state_dict_of_a_neox_model_is_taken_too(client, daemon):
    folder = FAMILIES / "gpt-neox"
    weights = tensors(folder / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("embed_out.weight")  # as transformers 5 calls it
    model = client.upload_model((folder / "config.json", weights), name="state", progress=False)
    expected = tensors(folder / "expected.safetensors")
    np.testing.assert_allclose(model.forward(expected["tokens"]), expected["logits"], atol=2e-5)
    model.unload()


def test_hooks_and_gradients_of_every_family(family):
    model, expected = family
    tokens, point = expected["tokens"], "blocks.0.hook_resid_pre"
    same = model.run_with_hooks(tokens, [(point, {"op": "scale", "factor": 1.0})])
    np.testing.assert_allclose(same, expected["logits"], atol=2e-5)
    two = model.cfg.d_vocab_out > 1
    _, cache = model.run_with_cache(
        tokens, [point + "_grad"], incl_bwd=True, gradient_of=[((0,), (1,) if two else ())]
    )
    grad = cache[point + "_grad"]
    direction = np.random.default_rng(0).standard_normal(grad.shape[-1]).astype(np.float32)

    def scalar(step):
        moved = [(point, {"op": "add", "value": direction * np.float32(step)})]
        logits = model.run_with_hooks(tokens, moved)[:, -1]
        return float((logits[:, 0] - (logits[:, 1] if two else 0)).mean())

    assert cache.scalar == pytest.approx(scalar(0.0), abs=1e-5)
    if "tracr" not in model.name:  # whose ReLUs sit on their kinks
        slope = (scalar(2e-3) - scalar(-2e-3)) / 4e-3
        assert float((grad @ direction).sum()) == pytest.approx(slope, rel=2e-2)


class Hooked:
    """As much of a HookedTransformer as an upload reads."""

    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        self.cfg = SimpleNamespace(
            **config, final_rms=False, n_key_value_heads=None, num_experts=None, attn_scale=6**0.5,
            output_logits_soft_cap=-1.0, rotary_dim=None, d_mlp=None, act_fn=None, model_name="attn-only-2l",
        )  # fmt: skip
        self.weights = tensors(folder / "model.safetensors")
        self.weights["blocks.0.attn.mask"] = np.ones((4, 4), bool)
        self.weights["blocks.0.attn.IGNORE"] = np.float32(-np.inf)

    def state_dict(self):
        return self.weights


def test_a_hooked_transformer_goes_up_as_it_is(client, daemon):
    folder = FAMILIES / "attn-only"
    model = ablate.hooked.upload(client, Hooked(folder), progress=False)
    expected = tensors(folder / "expected.safetensors")
    assert model.name == "attn-only-2l" and model.cfg.attn_only
    np.testing.assert_allclose(model.forward(expected["tokens"]), expected["logits"], atol=2e-5)
    model.unload()
    gated = Hooked(folder)
    gated.cfg.gated_mlp = True
    with pytest.raises(ablate.AblateError, match="gated_mlp"):
        ablate.hooked.upload(client, gated, progress=False)
    gated.cfg.final_rms = True
    with pytest.raises(ValueError, match="final_rms"):
        ablate.hooked.upload(client, gated, progress=False)


def test_scores_into_a_reader_sum_to_its_own(family):
    """Edge by edge a score has a closed form; here is the reader whole, by the gradient at its hook."""
    model, expected = family
    clean, outputs = expected["tokens"], model.cfg.d_vocab_out
    corrupt = np.roll(clean, 1, axis=0)
    best = expected["logits"][:, -1].argmax(-1).tolist()
    wrong = [((one + 1) % outputs,) if outputs > 1 else () for one in best]
    prompts = [
        {"clean": a.tolist(), "corrupt": b.tolist(), "answers": [one], "wrong_answers": list(other) or [one]}
        for a, b, one, other in zip(clean, corrupt, best, wrong)
    ]
    algo = ablate.MaskGradient(answer_function="avg_diff" if outputs > 1 else "avg_val", mask_val=0.0)
    graph = model.graph()
    scores = graph.prune_scores({"prompts": prompts}, algo, batch_size=len(prompts), progress=False)
    points = [wrapper.module_name for wrapper in graph.dest_wrappers]
    graph.delete()
    _, here = model.run_with_cache(
        clean,
        [*points, *[f"{point}_grad" for point in points]],
        incl_bwd=True,
        gradient_of=[((one,), other) for one, other in zip(best, wrong)],
    )
    _, there = model.run_with_cache(corrupt, points)
    largest = max(np.abs(values).max() for values in scores.values())
    assert largest > 1e-3
    for point in points:
        moved = (there[point] - here[point]) * here[f"{point}_grad"]
        own = -moved.sum(axis=(0, 1, -1))  # [head], or a number; the loss is minus the scalar
        np.testing.assert_allclose(scores[point].sum(-1), own, atol=1e-4 * largest, err_msg=point)
