# SPDX-License-Identifier: Apache-2.0
"""Completeness: does a circuit behave as the model does when both lose the same edges?"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

from ..._plotly import Legend, plotly
from ...prune_algos.prune_algos import PRUNE_ALGO_DICT
from ...tasks import TASK_DICT, Task
from ...types import AlgoKey, PruneScores, TaskKey, TaskPruneScores

CompletenessScores = List[Tuple[int, int, float, float]]
"""(circuit size, number of knockouts, KL of model and circuit, KL of the two under the knockouts)."""
AlgoCompletenessScores = Dict[AlgoKey, CompletenessScores]
TaskCompletenessScores = Dict[TaskKey, AlgoCompletenessScores]


def same_under_knockout(
    task: Task,
    circuit_ps: PruneScores,
    knockout_ps: PruneScores,
    circuit_size: int,
    knockout_threshold: float = 0.0,
) -> CompletenessScores:
    """One row for the circuit of ``circuit_size`` edges (more, where scores are tied): its edges whose
    score in ``knockout_ps`` is at least ``knockout_threshold`` are knocked out. Over the test prompts;
    ablated edges carry the corrupt prompt's activations.

    Raises what :meth:`ablate.Client.completeness` raises.
    """
    model, loader = task.model, task.test_loader
    circuit, knockouts = (
        model.graph.upload_scores(dict(scores), origin="same_under_knockout", prepend_bos=False)
        for scores in (circuit_ps, knockout_ps)
    )
    rows = model.client.completeness(
        circuit,
        knockouts,
        [circuit_size],
        knockout_threshold=knockout_threshold,
        dataset=loader.resident(model.client, bool(model.prefix)),
        batch_size=loader.batch_size,
    )
    return [(row.edge_count, row.knockout_count, row.kl_div, row.knockout_kl_div) for row in rows]


def measure_same_under_knockouts(
    circuit_ps: TaskPruneScores, knockout_ps: TaskPruneScores
) -> TaskCompletenessScores:
    """:func:`same_under_knockout` of each task and algorithm of ``knockout_ps``, at the official size.
    ValueError for a task without official edges."""
    measured: TaskCompletenessScores = {}
    for key, by_algo in knockout_ps.items():
        task = TASK_DICT[key]
        size = task.true_edge_count
        if size is None:
            raise ValueError(f"the task {key!r} has no official edges")
        measured[key] = {
            algo: same_under_knockout(task, circuit_ps[key][algo], knockouts, size)
            for algo, knockouts in by_algo.items()
        }
    return measured


def same_under_knockouts_fig(task_completeness_scores: TaskCompletenessScores) -> Any:
    """A plotly figure: KL without knockouts against KL with them, a task a column; a line leads from
    each circuit to where both would be the same. Raises ModuleNotFoundError without plotly.
    """
    _, subplots = plotly("measures of completeness")
    titles = [TASK_DICT[task].name for task in task_completeness_scores]
    figure = subplots.make_subplots(rows=1, cols=len(titles), subplot_titles=titles)
    legend = Legend()
    for column, by_algo in enumerate(task_completeness_scores.values(), start=1):
        ends = [0.0]
        for algo, rows in by_algo.items():
            for size, knockouts, normal, knocked in rows:
                same = (normal + knocked) / 2
                ends += [normal, knocked]
                figure.add_scatter(
                    x=[normal, same], y=[knocked, same], mode="lines+markers",
                    **legend.entry(PRUNE_ALGO_DICT[algo].name if algo in PRUNE_ALGO_DICT else algo),
                    hovertext=f"{size} edges, {knockouts} of them knocked out", row=1, col=column,
                )  # fmt: skip
        line = [min(ends), max(ends)]
        figure.add_scatter(
            x=line, y=line, name="y=x", mode="lines", line={"dash": "dash", "color": "grey"},
            showlegend=column == 1, row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(title="KL Div")
    figure.update_yaxes(title="Knockout KL Div")
    figure.update_layout(title="Same Under Knockouts", width=max(500, 450 * len(titles)), height=450)
    return figure
