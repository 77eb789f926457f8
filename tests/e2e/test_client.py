# SPDX-License-Identifier: Apache-2.0
"""What the README promises, through the Python client."""

import dataclasses
import json
import time

import ablate
import numpy as np
import pytest
from daemon import Daemon, goldens, smollm2

TEXT = "When Mary and John went to the store"


def test_the_daemon_describes_itself(client, daemon):
    info = client.server_info()
    assert info.protocol == "ablate.v1"
    assert set(info.families) >= {"gpt2", "llama"}
    assert info.limits.message_bytes > 0 and info.backend and info.blas
    assert info.http_address.endswith(daemon.http.rpartition(":")[2])


def test_a_restart_shows_in_the_instance_id(client, daemon):
    instance = client.server_info().instance_id
    assert len(instance) == 16 and int(instance, 16) >= 0
    with ablate.connect(daemon.grpc, arrays="numpy") as another:
        assert another.server_info().instance_id == instance
    with Daemon() as restarted, ablate.connect(restarted.grpc, arrays="numpy") as after:
        assert after.server_info().instance_id not in ("", instance)


def test_models_on_disk_are_listed_and_loading_twice_is_once(client, daemon, tiny):
    files = {entry.name: entry for entry in client.model_files()}
    assert files["tiny-ioi"].family == "gpt2" and not files["tiny-ioi"].problem
    before = client.server_info().resident_bytes.weights
    again = client.load_model("tiny-ioi", progress=False)
    assert again.id == tiny.id
    assert client.server_info().resident_bytes.weights == before
    assert client.model(tiny.id).name == "tiny-ioi"
    assert tiny.id in [model.id for model in client.models()]


def test_modes_are_different_resident_models(tiny, tiny_tl):
    assert tiny.id != tiny_tl.id and tiny.hash == tiny_tl.hash
    assert not any(tiny.processing.values()) and all(tiny_tl.processing.values())
    assert tiny.cfg.normalization_type == "LN" and tiny_tl.cfg.normalization_type == "LNPre"


def test_tokens_go_there_and_back(tiny):
    tokens = tiny.to_tokens(TEXT, prepend_bos=False)
    assert tokens.shape[0] == 1 and tokens.dtype == np.int64
    assert tiny.to_string(tokens) == [TEXT] and tiny.to_string(tokens[0]) == TEXT
    assert "".join(tiny.to_str_tokens(TEXT, prepend_bos=False)) == TEXT
    with_bos = tiny.to_tokens(TEXT, prepend_bos=True)
    assert with_bos[0, 0] == 0 and with_bos.shape[1] == tokens.shape[1] + 1
    assert tiny.to_single_token(tiny.to_single_str_token(int(tokens[0, 0]))) == tokens[0, 0]
    with pytest.raises(ValueError, match="not one token"):
        tiny.to_single_token(TEXT)


def test_slices_of_the_output_agree(tiny):
    tokens = np.arange(20).reshape(2, 10)
    logits = tiny(tokens)
    assert logits.shape == (2, 10, tiny.cfg.d_vocab)
    np.testing.assert_allclose(tiny(tokens, slice_output="last_seq"), logits[:, -1], atol=1e-5)
    np.testing.assert_allclose(tiny(tokens, slice_output="not_first_seq"), logits[:, 1:], atol=1e-5)
    batch_of_one = tiny(tokens[0])
    assert batch_of_one.shape == (1, 10, tiny.cfg.d_vocab)


def test_every_hook_point_fires_and_has_its_shape(tiny):
    tokens = np.arange(24).reshape(2, 12)
    points = tiny.hook_points()
    logits, cache = tiny.run_with_cache(tokens)
    _, with_heads = tiny.run_with_cache(tokens, per_head_inputs=True)
    names = [point.name for point in points]
    # Without per_head_inputs some wait to be asked for by name, as in TransformerLens.
    assert list(cache) == [name for name in names if name in cache]
    # The last one is the logits themselves, which come anyway; it is kept only when named.
    assert list(with_heads) == [name for name in names if name != "unembed.hook_out"]
    _, asked = tiny.run_with_cache(tokens, names)
    for point in points:
        assert asked[point.name].ndim == len(point.shape), point
        assert asked[point.name].shape[0] in (1, 2), point
    np.testing.assert_allclose(logits, tiny(tokens), atol=1e-5)
    np.testing.assert_array_equal(cache["resid_post", 0], cache["resid_pre", 1])


def test_names_may_be_one_some_a_predicate_or_none(tiny):
    name = "blocks.1.attn.hook_z"
    assert list(tiny.run_with_cache(TEXT, name)[1]) == [name]
    assert len(tiny.run_with_cache(TEXT, ["hook_embed", name])[1]) == 2
    posts = tiny.run_with_cache(TEXT, lambda hook: hook.endswith("resid_post"))[1]
    assert len(posts) == tiny.cfg.n_layers
    logits, cache = tiny.run_with_cache(TEXT, [])
    assert len(cache) == 0 and logits is not None


def test_stopping_early_gives_no_logits_and_no_later_layer(tiny):
    logits, cache = tiny.run_with_cache(TEXT, stop_at_layer=2)
    assert logits is None
    assert "blocks.1.hook_resid_post" in cache and "blocks.2.hook_resid_post" not in cache


def test_bridge_names_are_synonyms(tiny):
    for bridge, name in (("blocks.1.attn.hook_out", "blocks.1.hook_attn_out"), ("embed.hook_out", "hook_embed")):
        _, by_bridge = tiny.run_with_cache(TEXT, [bridge])
        _, by_name = tiny.run_with_cache(TEXT, [name])
        np.testing.assert_array_equal(by_bridge[bridge], by_name[name])
        np.testing.assert_array_equal(by_bridge[name], by_name[bridge])


def test_a_graph_has_nodes_and_edges_in_two_dialects(graph):
    assert graph.edge_count == 1519 and len(graph.edges) == 1519
    assert [edge.index for edge in graph.edges] == list(range(1519))
    names = {edge.name for edge in graph.edges}
    assert "A0.0->A1.3.Q" in names and "Resid Start->Resid End" in names
    eap = [edge.name for edge in graph.iter_edges(dialect="eap")]
    assert "a0.h0->a1.h3<q>" in eap and "input->logits" in eap
    into = list(graph.iter_edges(destination="MLP 0"))
    assert {edge.name for edge in into} == {f"{s}->MLP 0" for s in ["Resid Start", *(f"A0.{h}" for h in range(8))]}
    assert sum(int(np.prod(shape)) for shape in graph.modules.values()) == 1519
    assert {node.name for node in graph.nodes if node.is_source} >= {"Resid Start", "A3.7", "MLP 3"}


def test_a_graph_that_nobody_uses_ends_after_its_idle_timeout(tiny, client):
    kept, idle = tiny.graph(), tiny.graph(idle_timeout=1)
    assert kept.idle_timeout is None and idle.idle_timeout == 1
    end = time.monotonic() + 60
    while idle.id in {graph.id for graph in tiny.graphs()}:  # a list names nobody
        assert time.monotonic() < end
        time.sleep(0.1)
    with pytest.raises(ablate.NotFoundError):
        idle.delete()
    kept.delete()
    for wrong in (0, -1, 0.5, 86401):
        with pytest.raises(ablate.InvalidArgumentError) as caught:
            tiny.graph(idle_timeout=wrong)
        assert caught.value.reason == "IDLE_TIMEOUT_INVALID"


def test_a_graph_with_positions_has_an_edge_for_each(tiny):
    graph = tiny.graph(seq_len=16)
    assert graph.edge_count == 1519 * 16
    edge = next(graph.iter_edges("A0.0", "A1.3.Q", seq_idx=5))
    assert edge.seq_idx == 5 and graph.modules[edge.module_name][0] == 16
    graph.set_patch_mask({edge: 0.5})
    mask = graph.get_patch_mask()[edge.module_name]
    assert mask[edge.patch_idx] == 0.5 and np.count_nonzero(mask) == 1
    graph.delete()


def test_masks_are_set_by_edge_by_module_whole_and_restored(graph):
    assert graph.set_patch_mask({"A0.0->A1.3.Q": 1.0, "a0.h1->a1.h3<q>": 0.25}) == 2
    mask = graph.get_patch_mask()
    assert mask["blocks.1.hook_q_input"][3, 1] == 1.0 and mask["blocks.1.hook_q_input"][3, 2] == 0.25
    with graph.patched(1.0):
        assert all((array == 1).all() for array in graph.get_patch_mask().values())
    np.testing.assert_array_equal(graph.get_patch_mask()["blocks.1.hook_q_input"], mask["blocks.1.hook_q_input"])
    module = "blocks.2.hook_mlp_in"
    values = np.linspace(0, 1, graph.modules[module][0], dtype=np.float32)
    assert graph.set_patch_mask({module: values}, reset_others=True) == len(values) - 1
    np.testing.assert_array_equal(graph.get_patch_mask()[module], values)
    graph.reset_patch_mask()
    assert not any(array.any() for array in graph.get_patch_mask().values())


def test_an_empty_mask_is_the_clean_run_and_a_full_one_the_corrupt_run(graph, tiny):
    clean, corrupt = np.arange(16)[None] + 20, np.arange(16)[None] + 40
    plain = {name: tiny(tokens, slice_output="last_seq") for name, tokens in (("clean", clean), ("corrupt", corrupt))}
    np.testing.assert_allclose(graph(clean, ablation_input=corrupt), plain["clean"], atol=1e-4)
    with graph.patched(1.0):
        np.testing.assert_allclose(graph(clean, ablation_input=corrupt), plain["corrupt"], atol=1e-4)
        np.testing.assert_array_equal(graph(clean), tiny(clean, slice_output="last_seq"))
    with graph.patched({"A0.0->Resid End": 1.0}):
        assert np.abs(graph(clean, ablation="zero") - plain["clean"]).max() > 1e-4


def test_scores_stream_while_they_form_and_arrive_whole(graph, ioi):
    with graph.stream_prune_scores(ioi, "eap", batch_size=4, top_k=5) as stream:
        events = list(stream)
        scores = stream.scores
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    partial = [event for event in events if 0 < event.done_units < event.total_units]
    assert len(partial) >= 3
    assert all(len(event.top_edges) == 5 for event in partial)
    assert events[-1].state == "succeeded" and stream.job.state == "succeeded"
    assert {name: array.shape for name, array in scores.items()} == graph.modules
    best = max(abs(edge.score) for edge in scores.top_edges)
    assert best == pytest.approx(np.abs(scores.flat()).max(), rel=1e-6)


def test_the_same_request_gives_the_same_bits(graph, ioi):
    first, second = (graph.prune_scores(ioi, progress=False, batch_size=8).flat() for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "algo",
    [
        ablate.EdgeAttributionPatching("zero"),
        ablate.MaskGradient("logprob", "avg_val", mask_val=0.5),
        ablate.MaskGradient("prob", integrated_grad_samples=3),
        ablate.GroundTruth(edges=["A0.0->A1.3.Q", "MLP 0->Resid End"]),
        ablate.RandomScores(seed=7),
        ablate.ActivationMagnitude(),
        ablate.EAPIG(steps=2),
        ablate.EAPIG("activations", 1, ablation="zero"),
        ablate.EAPIG("clean_corrupted", grad_function="logprob", answer_function="avg_val"),
    ],
    ids=repr,
)
def test_every_algorithm_scores_every_edge(graph, ioi, algo):
    scores = graph.prune_scores(ioi, algo, batch_size=8, prompt_count=8, progress=False)
    flat = scores.flat()
    assert flat.size == graph.edge_count and np.isfinite(flat).all() and flat.any()
    if isinstance(algo, ablate.GroundTruth):
        assert np.count_nonzero(flat) <= 2


def test_circuits_are_run_evaluated_and_masked(graph, ioi):
    scores = graph.prune_scores(ioi, "eap", batch_size=8, progress=False)
    rows = graph.evaluate(scores, [0, 100, graph.edge_count], progress=False)
    assert [row["edge_count"] for row in rows] == [0, 100, graph.edge_count]
    assert rows[0]["kl_div"] > rows[1]["kl_div"] > rows[2]["kl_div"] == pytest.approx(0, abs=1e-4)
    assert set(rows[0]) == {"edge_count", "kl_div", "answer_diff", "correct_answer_percent"}
    logits = graph.run_circuits(scores, [0, 100], prompt_count=8)
    assert list(logits) == [0, 100]
    assert all(array.shape == (8, graph.model.cfg.d_vocab) for array in logits.values())
    assert graph.set_circuit(scores, edge_count=100) == graph.edge_count - 100
    assert graph.set_circuit(scores, edge_count=100, patch_type="edge_patch") == 100
    threshold = float(np.sort(np.abs(scores.flat()))[-30])
    assert graph.set_circuit(scores, threshold=threshold, patch_type="edge_patch") == 30
    for name, array in graph.get_patch_mask().items():
        np.testing.assert_array_equal(array == 1, np.abs(scores[name]) >= threshold)
    graph.reset_patch_mask()


def test_an_upload_equals_the_same_model_from_disk(client, daemon, tiny):
    folder = goldens() / "models" / "tiny-ioi"
    model = client.upload_model(folder, "mine", progress=False)
    assert model.hash == tiny.hash and model.has_tokenizer
    assert model.cfg == dataclasses.replace(tiny.cfg, model_name="mine")
    np.testing.assert_array_equal(model(TEXT), tiny(TEXT))
    assert model.unload() > 0


def test_an_upload_of_arrays_needs_no_folder_and_no_tokenizer(client, daemon, tiny):
    safetensors = pytest.importorskip("safetensors.numpy")
    folder = goldens() / "models" / "tiny-rand"
    config = json.loads((folder / "config.json").read_text())
    tensors = safetensors.load_file(folder / "model.safetensors")
    model = client.upload_model((config, tensors), "arrays", progress=False)
    assert not model.has_tokenizer
    assert model([[1, 2, 3]]).shape == (1, 3, model.cfg.d_vocab)
    with pytest.raises(ablate.FailedPreconditionError):
        model(TEXT)
    model.unload()


def test_datasets_are_kept_once_and_deleted(client, daemon, ioi, ioi_path):
    again = client.upload_dataset(ioi_path)
    assert again.id == ioi.id and again.prompt_count == 32 and again.seq_labels[2] == "IO"
    content = json.loads(ioi_path.read_text())
    content["prompts"] = content["prompts"][:2]
    small = client.upload_dataset(content, "small")
    assert small.id in [dataset.id for dataset in client.datasets()]
    small.delete()
    assert small.id not in [dataset.id for dataset in client.datasets()]


def test_two_clients_share_one_model(daemon, tiny):
    with ablate.connect(daemon.grpc, arrays="numpy") as one, ablate.connect(daemon.grpc, arrays="numpy") as two:
        weights = one.server_info().resident_bytes.weights
        models = [c.load_model("tiny-ioi", progress=False) for c in (one, two)]
        assert {model.id for model in models} == {tiny.id}
        graphs = [model.graph() for model in models]
        graphs[0].set_patch_mask(1.0)
        assert not any(array.any() for array in graphs[1].get_patch_mask().values())
        assert two.server_info().resident_bytes.weights == weights
        for made in graphs:
            made.delete()


def test_a_second_graph_costs_no_weights(client, tiny):
    before = client.server_info()
    graphs = [tiny.graph() for _ in range(10)]
    after = client.server_info()
    assert after.resident_bytes.weights == before.resident_bytes.weights
    assert after.graph_count == before.graph_count + 10
    # A mask of four bytes an edge, and a topology: nothing near the megabytes of the weights.
    grown = after.resident_bytes.graphs - before.resident_bytes.graphs
    assert 0 < grown < 10 * 64 * 1519
    for made in graphs:
        made.delete()
    assert client.server_info().resident_bytes.graphs == before.resident_bytes.graphs


def test_unloading_gives_the_memory_back(client, daemon):
    before = client.server_info().resident_bytes.weights
    model = client.load_model("tiny-rand", progress=False)
    assert client.server_info().resident_bytes.weights == before + model.weight_bytes
    assert model.unload() == model.weight_bytes
    assert client.server_info().resident_bytes.weights == before


def test_torch_tensors_come_where_torch_is(daemon, tiny):
    torch = pytest.importorskip("torch", reason="phase lens has it")
    with ablate.connect(daemon.grpc) as connection:
        logits = connection.model(tiny.id)(torch.arange(8)[None])
        assert isinstance(logits, torch.Tensor) and logits.dtype == torch.float32


@pytest.mark.skipif(smollm2() is None, reason="SmolLM2 was not fetched (python -m ablate.models fetch)")
def test_a_real_model_with_grouped_queries():
    folder = smollm2()
    with Daemon(roots=[folder.parent]) as daemon, ablate.connect(daemon.grpc, arrays="numpy") as client:
        model = client.load_model(folder.name, progress=False)
        assert (model.cfg.n_heads, model.cfg.n_key_value_heads) == (9, 3)
        prompt = "Then, Emma and Alice went to the store. Alice gave a drink to"
        best = int(model(prompt, slice_output="last_seq")[0].argmax())
        assert model.to_single_str_token(best) == " Emma"
        assert model.graph().edge_count == 70651
        assert model.graph(expand_kv_heads=True).edge_count == 123211
