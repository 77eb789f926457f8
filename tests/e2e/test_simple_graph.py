# SPDX-License-Identifier: Apache-2.0
"""Simple graphs (AutoCircuit's factorized=False) through the wire: topology, masks, passes, scores and
sweeps, against the recorded cases `*_proc_unfact` of tiny-rand, which the compact set has."""

import json

import ablate
import numpy as np
import pytest
from ablate.v1 import common_pb2, graph_pb2
from daemon import goldens
from test_cli import documents, run

safetensors = pytest.importorskip("safetensors.numpy", reason="reads the recorded numbers")
LOGITS_ATOL = 1e-4
SCORES_RTOL_OF_MAX = 2e-5
CASES = goldens() / "cases" / "tiny-rand"


def recorded(case):
    return safetensors.load_file(CASES / f"{case}.safetensors")


def described(case):
    return json.loads((CASES / f"{case}.json").read_text())


def module_arrays(arrays, prefix):
    return {name[len(prefix) + 1 :]: a for name, a in arrays.items() if name.startswith(f"{prefix}/")}


@pytest.fixture(scope="module")
def rand(client):
    return client.load_model("tiny-rand", "tl", progress=False)


@pytest.fixture
def simple(daemon, rand):
    made = rand.graph(factorized=False)
    yield made
    made.delete()


@pytest.fixture(scope="module")
def tokens():
    """Rows 0..7 of the prompts, clean and corrupt."""
    logits = recorded("a_logits")
    return logits["tokens_clean"], logits["tokens_corrupt"]


def passes(graph, tokens, **options):
    """Logits of clean prompts in batches of four, as recorded; corrupt ones ablate."""
    clean, corrupt = tokens
    return np.concatenate(
        [
            graph(clean[i : i + 4], ablation_input=corrupt[i : i + 4], **options)
            for i in range(0, len(clean), 4)
        ]
    )


@pytest.mark.parametrize("case", ["b_graph_proc_unfact", "b_graph_proc_unfact_seq"])
def test_nodes_edges_and_modules_are_autocircuits(rand, case):
    want = described(case)
    graph = rand.graph(factorized=False, seq_len=want["seq_len"])
    assert not graph.is_factorized and graph.edge_count == want["n_edges"]
    assert {name: list(shape) for name, shape in graph.modules.items()} == want["patch_mask_shapes"]
    sources = [node for node in graph.nodes if node.is_source]
    readers = [node for node in graph.nodes if not node.is_source]
    for nodes, listed in ((sources, want["srcs"]), (readers, want["dests"])):
        assert [(n.name, n.module_name, n.layer, n.head_idx) for n in nodes] == [
            (n["name"], n["module_name"], n["layer"], n["head_idx"]) for n in listed
        ]
    assert [n.src_idx for n in sources] == [n["src_idx"] for n in want["srcs"]]
    per_position = graph.edge_count // (want["seq_len"] or 1)
    assert [(e.name, e.module_name, list(e.patch_idx[-1:])) for e in graph.edges[:per_position]] == [
        (name, module, place) for name, module, place in want["edges"]
    ]
    graph.delete()


def test_nodes_of_the_stream_have_no_name_in_the_other_dialect(simple):
    other = {node.name: node.eap_name for node in simple.nodes}
    assert other["Resid Mid 0"] == other["Resid Post 0"] == ""
    assert other["A0.1"] == "a0.h1" and other["MLP 1"] == "m1" and other["Resid End"] == "logits"
    with pytest.raises(ablate.InvalidArgumentError) as caught:
        list(simple.iter_edges(dialect="eap"))
    assert caught.value.reason == "EDGE_DIALECT"


@pytest.mark.parametrize(
    ("case", "seq_len", "run"),
    [
        ("c_fraction_proc_unfact", None, "ext/clean_RESAMPLE"),
        ("c_fraction_proc_unfact_seq", 16, "ext/clean_RESAMPLE"),
    ],
)
def test_fractional_masks(daemon, rand, tokens, case, seq_len, run):
    want = recorded(case)
    graph = rand.graph(factorized=False, seq_len=seq_len)
    graph.set_patch_mask(module_arrays(want, f"mask/{run.split('/')[0]}"))
    np.testing.assert_allclose(passes(graph, tokens), want[f"logits/{run}"], rtol=0, atol=LOGITS_ATOL)
    graph.delete()


def test_circuits_by_edge_name(simple, tokens):
    want = recorded("c_circuits_proc_unfact")
    sets = described("c_circuits_proc_unfact")["edge_sets"]
    for name in ("all", "rand50pc", "single"):
        circuit = set(sets[name])
        outside = {edge: 1.0 for edge in simple.edges if edge.index not in circuit}
        simple.reset_patch_mask()
        if outside:
            simple.set_patch_mask(outside)
        ours = passes(simple, tokens)
        theirs = want[f"logits/TREE_PATCH/RESAMPLE/{name}"]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=LOGITS_ATOL, err_msg=name)


def test_the_ends_of_the_mask_are_the_plain_runs(simple, rand, tokens):
    clean, corrupt = tokens
    kept = simple(clean, ablation_input=corrupt)
    np.testing.assert_allclose(kept, rand(clean, slice_output="last_seq"), rtol=0, atol=1e-5)
    others = simple(corrupt, ablation_input=clean)
    simple.set_patch_mask(1.0)
    np.testing.assert_array_equal(simple(clean, ablation_input=corrupt), others)


@pytest.mark.parametrize(
    ("algo", "case", "noise"),
    [
        ("eap", "mg_logit_avg_diff_m0", 0),  # AutoCircuit's own eap fails there
        (ablate.MaskGradient(mask_val=0.0), "mg_logit_avg_diff_m0", 0),
        # between the ends what is left of ablated - current is small, and its rounding is not
        (ablate.MaskGradient(mask_val=0.7), "mg_logit_avg_diff_m0.7", 1e-6),
        (ablate.MaskGradient(integrated_grad_samples=10), "mg_logit_avg_diff_ig10", 1e-6),
    ],
)
def test_scores(rand, client, ioi, algo, case, noise):
    for variant, seq_len in (("proc_unfact", None), ("proc_unfact_seq", 16)):
        graph = rand.graph(factorized=False, seq_len=seq_len)
        scores = graph.prune_scores(
            ioi, algo, batch_size=4, prompt_count=8, prepend_bos=True, progress=False
        )
        theirs = module_arrays(recorded(f"d_scores_{variant}"), case)
        assert set(scores) == set(theirs)
        largest = max(np.abs(array).max() for array in theirs.values())
        for name, array in scores.items():
            np.testing.assert_allclose(
                array, theirs[name], rtol=0, atol=SCORES_RTOL_OF_MAX * largest + noise
            )
        graph.delete()


def test_exact_scores_and_a_sweep_over_sizes(simple, client, ioi, tokens):
    options = {"batch_size": 4, "prompt_count": 8, "prepend_bos": True, "progress": False}
    exact = simple.prune_scores(ioi, "ground_truth", **options)
    # the edge that matters most, by a pass of its own: loss = -(answer - wrong answer)
    answers = recorded("a_logits")
    rows = np.arange(8)

    def loss(logits):
        diff = logits[rows, answers["answers"][:, 0]] - logits[rows, answers["wrong_answers"][:, 0]]
        return -diff[:4].mean() - diff[4:].mean()  # summed over batches

    edge = max(simple.edges, key=lambda e: abs(exact[e.module_name][e.patch_idx]))
    clean = loss(passes(simple, tokens))
    with simple.patched({edge: 1.0}):
        assert abs(loss(passes(simple, tokens)) - clean - exact[edge.module_name][edge.patch_idx]) < 1e-3
    rows_of_sweep = client.evaluate(exact, [0, 1, 7, 14], batch_size=4, prompt_count=8, progress=False)
    assert [row["edge_count"] for row in rows_of_sweep] == [0, 1, 7, 14]
    assert rows_of_sweep[0]["kl_div"] > 1e-3 and rows_of_sweep[-1]["kl_div"] < 1e-9


@pytest.mark.parametrize(
    "algo",
    [
        "random",
        "activation_magnitude",
        ablate.SubnetworkProbing(epochs=1),
        ablate.SubnetworkProbing(epochs=1, tree_optimisation=True),
        ablate.CircuitProbing(circuit_sizes=[2, 7], epochs=1),
    ],
)
def test_every_other_algorithm_runs(simple, ioi, algo):
    scores = simple.prune_scores(ioi, algo, batch_size=4, prompt_count=8, progress=False)
    assert {name: array.shape for name, array in scores.items()} == simple.modules
    assert all(np.isfinite(array).all() for array in scores.values())


@pytest.mark.parametrize("algo", ["eap", "ground_truth", ablate.MaskGradient(mask_val=0.5)])
def test_scores_behind_a_shared_prefix_are_those_of_whole_prompts(simple, client, algo):
    late = client.upload_dataset(goldens() / "prompts" / "ioi_late.json")
    options = {"batch_size": 4, "progress": False}
    whole = simple.prune_scores(late, algo, **options)
    tails = simple.prune_scores(late, algo, tail_divergence=True, **options)
    largest = max(np.abs(array).max() for array in whole.values())
    for name, array in whole.items():
        np.testing.assert_allclose(tails[name], array, rtol=0, atol=SCORES_RTOL_OF_MAX * largest)


def test_eap_has_no_file_for_it(simple, ioi):
    scores = simple.prune_scores(ioi, "eap", batch_size=4, prompt_count=4, progress=False)
    with pytest.raises(ablate.FailedPreconditionError) as caught:
        simple.eap_graph(scores)
    assert caught.value.reason == "GRAPH_OPTIONS"


def test_a_cached_pass_shows_the_patched_stream(simple, tokens):
    clean, corrupt = (side[:4] for side in tokens)
    simple.set_patch_mask({edge: 1.0 for edge in simple.edges if "->Resid Mid 1" in edge.name})
    names = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_mid"]
    logits, cache = simple.run_with_cache(clean, names, ablation_input=corrupt)
    np.testing.assert_allclose(logits, simple(clean, ablation_input=corrupt), rtol=0, atol=1e-5)
    simple.reset_patch_mask()
    _, kept = simple.run_with_cache(clean, names, ablation_input=corrupt)
    _, other = simple.run_with_cache(corrupt, names, ablation_input=clean)
    np.testing.assert_allclose(cache[names[0]], kept[names[0]], rtol=0, atol=1e-5)
    np.testing.assert_allclose(cache[names[1]], other[names[1]], rtol=0, atol=1e-5)
    assert np.abs(kept[names[1]] - other[names[1]]).max() > 0.1


def test_what_autocircuit_does_not_look_at_is_allowed(rand):
    graph = rand.graph(factorized=False, separate_qkv=False)  # as patchable_model() has it
    assert graph.edge_count == 14
    graph.delete()


@pytest.mark.parametrize("options", [{"merge_qkv": True}, {"expand_kv_heads": True}])
def test_contradictory_options_are_refused(rand, client, options):
    request = graph_pb2.CreateGraphRequest(
        model_id=rand.id,
        options=common_pb2.GraphOptions(**{"kind": common_pb2.GRAPH_KIND_SIMPLE, **options}),
    )
    with pytest.raises(ablate.InvalidArgumentError) as caught:
        client._call("CreateGraph", request)
    assert caught.value.reason == "GRAPH_OPTIONS" and next(iter(options)) in str(caught.value)


def test_the_command_line(daemon, rand, ioi_path):
    def cli(*words):
        return run(daemon.grpc, *words)[0]

    graph = json.loads(cli("graph", "create", "--model", rand.id, "--simple", "--json"))["graph"]
    assert graph["options"]["kind"] == "GRAPH_KIND_SIMPLE"
    assert "simple" in cli("graph", "list")
    assert "Resid Mid 0->Resid Post 0" in cli("graph", "edges", graph["graph_id"])
    events = documents(
        cli("discover", "--model", rand.id, "--simple", "--dataset", ioi_path, "--prompts", 4,
            "--batch-size", 4, "--json")
    )
    assert events[-1]["ended"]["state"] == "JOB_STATE_SUCCEEDED"
    assert events[0]["created"]["spec"]["graph_id"] == graph["graph_id"]  # used again
    cli("graph", "delete", graph["graph_id"])
