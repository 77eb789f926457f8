# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the real daemon answers: what is in them, in both backends."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from ablate import plot

BACKENDS = ("matplotlib", "plotly")


@pytest.fixture(scope="module")
def scored(tiny, ioi):
    """A graph and its scores."""
    graph = tiny.graph()
    yield graph, graph.prune_scores(ioi, progress=False)
    graph.delete()


@pytest.fixture(scope="module")
def prompt(ioi_path):
    return json.loads(ioi_path.read_text())["prompts"][0]["clean"]


def png(figure):
    """What a notebook shows."""
    return figure._repr_png_()


def texts_of(figure):
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def test_a_circuit_has_its_top_edges_and_layers_go_upward(scored):
    graph, scores = scored
    figure = plot.circuit(graph, scores, 10, backend="plotly")
    hovers = {text for trace in figure.data for text in trace.text or () if text}
    drawn = {text.split("<br>")[0] for text in hovers if "<br>score" in text}
    assert drawn == {edge.edge for edge in scores.top_edges[:10]}
    nodes = next(trace for trace in figure.data if trace.mode == "markers+text")
    height = dict(zip(nodes.text, nodes.y))
    assert height["Start"] < height["A0.3"] < height["MLP 0"]
    assert len({(x, y) for x, y in zip(nodes.x, nodes.y)}) == len(nodes.text)


def test_both_backends_draw_the_same_nodes(scored):
    graph, scores = scored
    by_plotly = plot.circuit(graph, scores, 25, backend="plotly")
    nodes = next(trace for trace in by_plotly.data if trace.mode == "markers+text")
    figure = plot.circuit(graph, scores, 25, backend="matplotlib")
    assert set(nodes.text) <= texts_of(figure)
    assert png(figure).startswith(b"\x89PNG")


def test_a_token_specific_circuit_has_a_column_a_position(tiny, ioi, prompt):
    tokens = tiny.to_str_tokens(prompt)
    graph = tiny.graph(seq_len=len(tokens))
    scores = graph.prune_scores(ioi, progress=False)
    figure = plot.circuit(graph, scores, 30, tokens=tokens, backend="matplotlib")
    positions = {edge.seq_idx for edge in scores.top_edges}
    assert {tokens[position] for position in positions} <= texts_of(figure)
    heat = plot.scores(graph, scores, seq_idx=len(tokens) - 1, backend="plotly").data[0]
    summed = plot.scores(graph, scores, backend="plotly").data[0]
    assert not np.allclose(heat.customdata, summed.customdata)
    with pytest.raises(ValueError, match="3 tokens for a graph of"):
        plot.circuit(graph, scores, tokens=["a", "b", "c"])


def test_a_heat_map_has_each_score_at_its_names(scored):
    graph, scores = scored
    heat = plot.scores(graph, scores, backend="plotly").data[0]
    for edge in scores.top_edges:
        source, destination = edge.edge.split("->")
        value = heat.customdata[list(heat.y).index(destination)][list(heat.x).index(source)]
        assert value == pytest.approx(edge.score, rel=1e-5)
    absent = sum(shade is None for row in heat.z for shade in row)
    assert len(heat.x) * len(heat.y) - absent == graph.edge_count
    assert png(plot.scores(graph, scores, backend="matplotlib")).startswith(b"\x89PNG")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_simple_graph_is_drawn_too(tiny, ioi, backend):
    graph = tiny.graph(factorized=False)
    scores = graph.prune_scores(ioi, progress=False)
    assert plot.circuit(graph, scores, backend=backend) is not None
    assert plot.scores(graph, scores, backend=backend) is not None


def test_curves_are_those_of_the_evaluation(scored):
    graph, scores = scored
    rows = graph.evaluate(scores, [0, 10, graph.edge_count], progress=False)
    figure = plot.faithfulness({"EAP": rows}, "kl_div", backend="plotly")
    assert list(figure.data[0].y) == [row["kl_div"] for row in rows]
    assert len(plot.faithfulness(rows, backend="matplotlib").axes) == len(rows[0]) - 1
    with pytest.raises(ValueError, match="'kl' was not measured; there is kl_div"):
        plot.faithfulness(rows, "kl")


def test_attention_is_shown_by_head_and_token(tiny, prompt):
    _, cache = tiny.run_with_cache(prompt, ["blocks.1.attn.hook_pattern"])
    tokens = tiny.to_str_tokens(prompt)
    figure = plot.attention(cache["pattern", 1], tokens, heads=[0, 5], backend="plotly")
    assert len(figure.data) == 2
    drawn = np.array(figure.data[1].z, dtype=float)
    np.testing.assert_allclose(drawn[-1], cache["pattern", 1][0, 5, -1])
    assert np.isnan(drawn[0, 1:]).all(), "a token does not look ahead"
    assert png(plot.attention(cache["pattern", 1], tokens, backend="matplotlib")).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="tokens for a pattern over"):
        plot.attention(cache["pattern", 1], tokens[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edge_count": 0}, "nothing to draw"),
        ({"edge_count": 10, "threshold": 0.1}, "edge_count or threshold"),
        ({"backend": "graphviz"}, "must be 'matplotlib' or 'plotly'"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(scored, options, message):
    with pytest.raises(ValueError, match=message):
        plot.circuit(*scored, **options)


def test_a_missing_library_is_named(scored, monkeypatch):
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install 'ablate\\[plot\\]'"):
        plot.circuit(*scored)
    with pytest.raises(ImportError, match="plotly is not installed"):
        plot.circuit(*scored, backend="plotly")


def test_the_package_alone_imports_no_picture_library():
    import subprocess

    code = "import sys, ablate.plot; print([m for m in ('matplotlib', 'plotly') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
