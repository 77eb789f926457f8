# SPDX-License-Identifier: Apache-2.0
"""Scores from elsewhere, what is measured of scores and circuits, and the files of other tools."""

import json
import math

import ablate
import numpy as np
import pytest
from daemon import goldens

CFG = {"n_layers": 4, "n_heads": 8, "parallel_attn_mlp": False, "d_model": 128}


@pytest.fixture(scope="module")
def graph(tiny_tl):
    made = tiny_tl.graph()
    yield made
    made.delete()


@pytest.fixture(scope="module")
def eap(graph, ioi):
    return graph.prune_scores(ioi, "eap", batch_size=8, prompt_count=8, prepend_bos=True, progress=False)


# --- uploaded scores ----------------------------------------------------------------------------------


def test_uploaded_scores_are_as_good_as_a_jobs(client, graph, ioi, eap):
    uploaded = graph.upload_scores(eap, origin="eap of another day", prepend_bos=True)
    assert uploaded.job.state == "succeeded" and uploaded.job.id in [job.id for job in client.jobs()]
    np.testing.assert_array_equal(uploaded.flat(), eap.flat())
    options = {"dataset": ioi, "prompt_count": 8, "batch_size": 8, "progress": False}
    sizes = [0, 10, 100, graph.edge_count]
    assert graph.evaluate(uploaded, sizes, **options) == graph.evaluate(eap, sizes, **options)
    assert graph.set_circuit(uploaded, edge_count=100) == graph.edge_count - 100
    graph.reset_patch_mask()
    assert json.loads(uploaded.job.provenance.algorithm_json) == {
        "algorithm": "uploaded", "origin": "eap of another day"
    }  # fmt: skip
    with pytest.raises(ablate.InvalidArgumentError) as caught:
        graph.evaluate(uploaded, sizes, progress=False)
    assert caught.value.reason == "DATASET_MISSING"
    assert [event.state for event in uploaded.job.watch()] == ["succeeded"]


def test_scores_by_hand_are_autocircuits(graph):
    ones = graph.new_prune_scores(2.5)
    assert {name: array.shape for name, array in ones.items()} == graph.modules
    assert (ones.flat() == 2.5).all() and not graph.new_prune_scores().flat().any()
    names = ["A0.0->A1.3.Q", "m0->logits"]
    scores = graph.circuit_prune_scores(names)
    assert scores.flat().sum() == 2 and scores["blocks.1.hook_q_input"][3, 1] == 1
    flags = graph.circuit_prune_scores(names, bool=True)
    assert flags["blocks.1.hook_q_input"].dtype == bool and flags["blocks.1.hook_q_input"][3, 1]
    weighted = graph.circuit_prune_scores(edge_dict={"MLP 0->Resid End": 0.5, graph.edges[3]: -2})
    assert sorted(weighted.flat()[weighted.flat() != 0]) == [-2, 0.5]
    graph.set_patch_mask({"A0.0->A1.3.Q": 0.25})
    masks = graph.current_patch_masks_as_prune_scores()
    graph.reset_patch_mask()
    assert masks["blocks.1.hook_q_input"][3, 1] == 0.25 and np.count_nonzero(masks.flat()) == 1


def test_infinity_is_a_score_and_positions_are_kept(tiny_tl):
    graph = tiny_tl.graph(seq_len=16)
    scores = graph.upload_scores({("A0.0->A1.3.Q", 5): math.inf, "MLP 0->Resid End": 1})
    assert np.isinf(scores["blocks.1.hook_q_input"][5, 3, 1])
    assert np.count_nonzero(scores.flat()) == 1 + 16
    assert set(graph.circuit_prune_scores([graph.edges[7]]).flat()) == {0, 1}
    graph.delete()


# --- measures ------------------------------------------------------------------------------------------


def test_every_metric_has_a_curve_and_areas(graph, ioi, eap):
    from ablate.v1 import evaluate_pb2

    names = [name.removeprefix("METRIC_").lower() for name in evaluate_pb2.Metric.keys()][1:]
    sizes = [0, 1, 10, 100, 1000, graph.edge_count]
    out = graph.evaluate(eap, sizes, names, dataset=ioi, prompt_count=8, progress=False)
    assert set(out.areas) == set(names) and set(out[0]) == {"edge_count", *names}
    assert out.stds[1]["kl_div"] > 0 and out.stds[1]["answer_diff_percent"] == 0
    x = np.array([row["edge_count"] for row in out], float)
    y = np.array([row["answer_diff"] for row in out])
    area = out.areas["answer_diff"]
    assert area.trapezoid == pytest.approx(np.trapezoid(y, x))
    assert area.auc_linear == pytest.approx(max(np.trapezoid(y - y[0], x), 1e-3))
    assert area.auc == pytest.approx(max(np.trapezoid(y[1:] - y[0], np.log10(x[1:])), 1e-3))
    faith = (y - y[0]) / (y[-1] - y[0])
    assert area.cpr == pytest.approx(np.trapezoid(faith[1:], x[1:] / x[-1]))
    assert area.cmd == pytest.approx(np.trapezoid(abs(1 - faith[1:]), x[1:] / x[-1]))
    assert out.areas["kl_div"].auc >= 1e-3
    partial = graph.evaluate(eap, [10, 100], ["answer_diff"], dataset=ioi, prompt_count=8, progress=False)
    assert math.isnan(partial.areas["answer_diff"].cpr) and math.isnan(partial.areas["answer_diff"].auc)


def test_signed_scores_rank_by_value(graph, ioi, eap):
    flat = eap.flat()
    positive = int((flat > 0).sum())
    top = graph.upload_scores({name: np.maximum(array, 0) for name, array in eap.items()}, prepend_bos=True)
    options = {"dataset": ioi, "prompt_count": 8, "batch_size": 8, "progress": False}
    sizes = [1, 20, positive]
    signed = graph.evaluate(eap, sizes, ["answer_diff"], signed_scores=True, **options)
    assert signed == graph.evaluate(top, sizes, ["answer_diff"], **options)
    assert signed != graph.evaluate(eap, sizes, ["answer_diff"], **options)


def test_completeness_of_a_circuit(client, graph, ioi, eap):
    nothing, everything = graph.new_prune_scores(-1), graph.new_prune_scores(1)
    options = {"dataset": ioi, "prompt_count": 8, "batch_size": 8}
    rows = client.completeness(eap, nothing, [50, 200], **options)
    assert [row.edge_count for row in rows] == [50, 200]
    assert all(row.knockout_count == 0 and row.kl_div == row.knockout_kl_div > 0 for row in rows)
    kl = graph.evaluate(eap, [50, 200], ["kl_div"], progress=False, **options)
    assert [row.kl_div for row in rows] == pytest.approx([row["kl_div"] for row in kl])
    (row,) = client.completeness(eap, everything, [50], **options)
    assert row.knockout_count == 50 and row.knockout_kl_div != row.kl_div
    (row,) = client.completeness(eap, eap, [graph.edge_count], **options)
    assert row.kl_div == pytest.approx(0, abs=1e-5) and row.knockout_kl_div == pytest.approx(0, abs=1e-5)


def test_roc_of_a_reference(client, graph, ioi, eap):
    order = np.argsort(-abs(eap.flat()), kind="stable")
    best = [graph.edges[i].name for i in order[:30]]
    roc = client.roc(eap, best, edge_counts=[0, 15, 30])
    assert roc.area == 1 and roc.reference_edge_count == 30
    assert roc.points == [(0, 0), (0, 0), (0, 0.5), (0, 1), (1, 1)]
    assert client.roc(eap, eap, reference_edge_count=30).area == 1
    flipped = graph.upload_scores({name: 1 / (abs(array) + 1e-3) for name, array in eap.items()})
    assert client.roc(flipped, best).area < 0.05
    random = graph.prune_scores(ioi, "random", progress=False)
    assert 0.3 < client.roc(random, best).area < 0.7


def test_scores_compare(client, graph, eap):
    same = client.compare(eap, eap, [1, 10, 100])
    assert [o.similarity for o in same.overlaps] == [1, 1, 1]
    assert same.spearman == pytest.approx(1) and same.pearson == pytest.approx(1)
    negated = graph.upload_scores({name: -array for name, array in eap.items()})
    other = client.compare(eap, negated, [10])
    assert other.overlaps[0].jaccard == 1 and other.spearman == pytest.approx(1)
    assert other.pearson == pytest.approx(-1)
    tied = client.compare(eap, graph.new_prune_scores(1), [10])
    assert math.isnan(tied.overlaps[0].similarity) and tied.overlaps[0].second_count == graph.edge_count
    assert math.isnan(tied.spearman)


# --- files ------------------------------------------------------------------------------------------------


def test_safetensors_there_and_back(graph, eap, tmp_path):
    path = tmp_path / "eap.safetensors"
    graph.save_scores(eap, path)
    arrays = ablate.load_scores(path)
    assert list(arrays) == list(eap)
    again = graph.load_scores(path)
    np.testing.assert_array_equal(again.flat(), eap.flat())
    try:
        from safetensors.numpy import load_file
    except ImportError:
        return
    for name, array in load_file(path).items():
        np.testing.assert_array_equal(array, eap[name])


def test_eap_graph_files_there_and_back(graph, eap, tmp_path):
    """in_graph true means kept, a mask of 1 means ablated; neither loses a bit on the way."""
    graph.set_circuit(eap, edge_count=40)
    mask = graph.get_patch_mask()
    graph.reset_patch_mask()
    made = graph.eap_graph(eap, mask)
    path = tmp_path / "ioi.json"
    made.save(path)
    content = json.loads(path.read_text())
    assert content["cfg"] == CFG and set(content) == {"cfg", "nodes", "edges"}
    assert len(content["edges"]) == graph.edge_count
    assert sum(edge["in_graph"] for edge in content["edges"].values()) == 40
    assert content["edges"]["a0.h0->a1.h3<q>"]["score"] == eap["blocks.1.hook_q_input"][3, 1]
    assert set(content["nodes"]) == {"input", "logits", *(f"m{i}" for i in range(4)),
                                     *(f"a{i}.h{j}" for i in range(4) for j in range(8))}  # fmt: skip
    back = graph.read_eap_graph(path)
    for name, array in eap.items():
        np.testing.assert_array_equal(back.scores[name], array)
        np.testing.assert_array_equal(back.mask[name], mask[name])
    assert back.to_dict() == content
    np.testing.assert_array_equal(graph.load_scores(path).flat(), eap.flat())


def test_a_file_with_nodes_of_its_own_keeps_them(graph, eap):
    content = graph.eap_graph(eap).to_dict()
    content["nodes"]["m0"] = {"in_graph": False, "score": -0.25, "neurons": [True, False]}
    content["edges"]["input->m0"] = {"score": -(0.5**100), "in_graph": False}
    assert graph.read_eap_graph(content).to_dict() == content


def test_a_graph_file_of_another_model_is_refused_by_its_fields(graph, eap):
    content = graph.eap_graph(eap).to_dict()
    content["cfg"] |= {"n_heads": 12, "d_model": 768}
    with pytest.raises(ablate.InvalidArgumentError) as caught:
        graph.read_eap_graph(content)
    assert caught.value.reason == "GRAPH_CONFIG_MISMATCH"
    assert "n_heads is 12 there and 8 here" in caught.value.message
    assert "d_model is 768 there and 128 here" in caught.value.message
    assert "n_layers" not in caught.value.message


def test_graph_files_that_make_no_sense_are_refused(graph, tiny_tl, eap):
    good = graph.eap_graph(eap).to_dict()
    without = {**good, "edges": {k: v for k, v in good["edges"].items() if k != "m0->m1"}}
    strange = {**good, "edges": {**good["edges"], "a9.h9->logits": {"score": 0, "in_graph": True}}}
    empty = {**good, "edges": {**good["edges"], "m0->m1": {"in_graph": True}}}
    for content, words in ((without, "m0->m1"), (strange, "a9.h9->logits"), (empty, "m0->m1"), ({"cfg": CFG}, "nodes")):
        with pytest.raises(ablate.InvalidArgumentError, match=words) as caught:
            graph.read_eap_graph(content)
        assert caught.value.reason == "GRAPH_FILE_MALFORMED"
    with pytest.raises(ablate.InvalidArgumentError) as caught:
        graph.eap_graph(eap, {name: array * 0 + 0.5 for name, array in eap.items()})
    assert caught.value.reason == "MASK_FRACTION"
    positions = tiny_tl.graph(seq_len=16)
    with pytest.raises(ablate.FailedPreconditionError):
        positions.eap_graph(positions.new_prune_scores())
    positions.delete()


# --- the recorded helpers, through the wire ------------------------------------------------------------


def test_recorded_helpers(client):
    safetensors = pytest.importorskip("safetensors.numpy", reason="reads the recorded numbers")
    folder = goldens() / "cases" / "tiny-rand"
    recorded = json.loads((folder / "g_helpers_proc_fact_qkv.json").read_text())
    arrays = safetensors.load_file(folder / "g_helpers_proc_fact_qkv.safetensors")
    graph = client.load_model("tiny-rand", "tl", progress=False).graph()
    edges = [graph.edges[i] for i in recorded["picked_edges"]]
    assert [edge.name for edge in edges] == recorded["picked_names"]
    made = {
        "edges_obj": graph.circuit_prune_scores(edges),
        "edges_names": graph.circuit_prune_scores(recorded["picked_names"]),
        "edge_dict_obj": graph.circuit_prune_scores(edge_dict={e: k + 0.5 for k, e in enumerate(edges)}),
    }
    for key, scores in made.items():
        for name, array in scores.items():
            np.testing.assert_array_equal(array, arrays[f"{key}/{name}"])
    graph.delete()
