# SPDX-License-Identifier: Apache-2.0
"""Notebook habits: what objects look like in a cell, and that blocks leave things as they were."""

from __future__ import annotations

import copy
from html.parser import HTMLParser

import ablate
import numpy as np
import pytest
from ablate import NotFoundError, PruneScores
from daemon import Daemon


class Page(HTMLParser):
    """Tags must close in order; the text is kept."""

    def __init__(self, markup):
        super().__init__()
        self.open, self.text, self.tags = [], "", set()
        self.feed(markup)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        assert not {"src", "href", "onclick"} & {name for name, _ in attrs}, "nothing from elsewhere"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "|"


def page(thing):
    markup = thing._repr_html_()
    assert len(markup) < 60_000
    shown = Page(markup)
    assert not {"script", "style", "link", "iframe"} & shown.tags
    return shown


def test_models_graphs_and_hooks_say_what_they_are(tiny, graph):
    assert "tiny-ioi" in page(tiny).text and "none: as in the file" in page(tiny).text
    assert f"{graph.edge_count:,}" in page(graph).text
    assert "blocks.0.hook_q_input" in page(graph).text
    with graph.add_hook("blocks.0.attn.hook_z", "zero", heads=[3]) as hook:
        assert "blocks.0.attn.hook_z|" in page(hook).text and "heads|3|" in page(hook).text


def test_scores_jobs_and_evaluations_are_tables(graph, ioi):
    scores = graph.prune_scores(ioi, progress=False)
    top = scores.top_edges[0]
    assert top.edge in page(scores).text and f"{top.score:+.4g}" in page(scores).text
    later = page(PruneScores(dict(scores), scores.job))
    assert f"{top.score:+.4g}" in later.text, "without names the largest elements are shown"
    assert "succeeded" in page(scores.job).text
    rows = graph.evaluate(scores, [0, graph.edge_count], progress=False)
    assert "|kl div|" in page(rows).text and f"|{rows[0]['kl_div']:.4g}|" in page(rows).text


def test_kept_activations_show_names_and_shapes(tiny):
    _, kept = tiny.run_with_cache("Then, Alice", "blocks.0.attn.hook_z", keep_on_server=True)
    with kept:
        assert "blocks.0.attn.hook_z|" in page(kept).text


def test_caches_say_what_they_hold_and_fetch_nothing_for_it(tiny):
    _, lazy = tiny.run_with_cache([[3, 41, 7]])
    shown = page(lazy)
    assert lazy.fetched == [] and "blocks.0.hook_mlp_out|1×3×128|on the daemon|" in shown.text
    _, some = tiny.run_with_cache([[3, 41, 7]], "blocks.0.hook_mlp_out")
    assert "blocks.0.hook_mlp_out|1×3×128|here|" in page(some).text
    cache = tiny.kv_cache([[3, 41, 7]])
    assert "3 tokens: 3, 41, 7|" in page(cache).text and "nobody|" in page(cache).text
    cache.delete()


def test_datasets_ablations_comparisons_and_graph_files_are_tables(client, tiny, graph, ioi):
    assert f"|{ioi.prompt_count}|" in page(ioi).text and " · IO · " in page(ioi).text
    ablation = tiny.create_ablation(ioi, batch_size=8, progress=False)
    assert "tokenwise mean corrupt|" in page(ablation).text and "prompts of 16 tokens" in page(ablation).text
    ablation.delete()
    scores, other = (graph.prune_scores(ioi, algo, progress=False) for algo in ("eap", "random"))
    comparison = client.compare(scores, other, [10, 100])
    text = page(comparison).text
    assert f"{comparison.spearman:.4f}|" in text and f"|100|{comparison.overlaps[1].common_count}|" in text
    file = graph.eap_graph(scores, {name: np.ones(shape) for name, shape in graph.modules.items()})
    assert f"edges|{graph.edge_count:,}|in the graph|0|" in page(file).text


def test_a_client_says_what_is_resident_or_that_nobody_answers(tiny):
    with Daemon() as daemon:
        with ablate.connect(daemon.grpc, arrays="numpy") as connection:
            connection.load_model("tiny-ioi", progress=False)
            assert "models: 1" in page(connection).text and "weights " in page(connection).text
            daemon.stop()
            assert "no answer|" in page(connection).text


def test_names_cannot_bring_markup(graph, ioi):
    scores = graph.prune_scores(ioi, progress=False)
    scores.top_edges = (type(scores.top_edges[0])("<script>alert(1)</script>", None, 1.0),)
    assert "<script>alert(1)</script>|" in page(scores).text
    ioi = copy.copy(ioi)
    ioi.name, ioi.seq_labels = "<script>", ["<b>", "&amp;"]
    assert "<script>" in page(ioi).text and "<b> · &amp;|" in page(ioi).text


def test_an_error_in_a_block_leaves_mask_function_and_hooks_as_they_were(graph):
    graph.set_patch_mask({"A0.3->MLP 0": 0.5})
    before = {name: np.array(mask) for name, mask in graph.get_patch_mask().items()}
    graph.set_mask_fn("sigmoid", 0.25)
    with pytest.raises(KeyboardInterrupt):
        with (
            graph.patched(1.0),
            graph.mask_fn_mode("hard_concrete"),
            graph.add_hook("blocks.0.attn.hook_z", "zero"),
        ):
            assert graph.mask_fn == ("hard_concrete", 0.0)
            raise KeyboardInterrupt
    assert graph.mask_fn == ("sigmoid", 0.25)
    assert graph.hooks() == []
    for name, mask in graph.get_patch_mask().items():
        np.testing.assert_array_equal(mask, before[name])


def test_a_hook_that_its_block_removed_does_not_hide_the_blocks_error(graph):
    with pytest.raises(ZeroDivisionError):
        with graph.add_hook("blocks.0.attn.hook_z", "zero") as hook:
            graph.reset_hooks()
            raise ZeroDivisionError
    with pytest.raises(NotFoundError):
        hook.remove()


def test_the_bar_runs_with_the_top_edges(graph, ioi, capfd):
    scores = graph.prune_scores(ioi, batch_size=8)
    bar = capfd.readouterr().err
    assert "scoring edges" in bar and "4/4" in bar
    for edge in scores.top_edges[:3]:
        assert f"{edge.edge} {edge.score:+.3g}" in bar
