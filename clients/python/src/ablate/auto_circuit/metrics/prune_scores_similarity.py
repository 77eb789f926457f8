# SPDX-License-Identifier: Apache-2.0
"""How far the circuits of several scores agree."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Dict, List

import numpy as np

from ..._arrays import to_numpy
from .._plotly import plotly
from ..prune_algos.prune_algos import PRUNE_ALGO_DICT
from ..tasks import TASK_DICT
from ..types import AlgoKey, AlgoPruneScores, PruneScores, TaskKey, TaskPruneScores

Similarities = Dict[int, Dict[AlgoKey, Dict[AlgoKey, float]]]


def prune_score_similarities(algo_prune_scores: AlgoPruneScores, edge_counts: List[int]) -> Similarities:
    """Edge count -> algorithm -> algorithm (itself and those behind it) -> the share of common edges;
    NaN where ties make either circuit larger.
    """
    modules = list(next(iter(algo_prune_scores.values()), ()))
    flat = {algo: _flat(scores, modules) for algo, scores in algo_prune_scores.items()}
    descending = {algo: np.sort(scores)[::-1] for algo, scores in flat.items()}
    similar: Similarities = defaultdict(lambda: defaultdict(dict))
    for count in edge_counts:
        circuits = {
            algo: scores >= (descending[algo][count - 1] if count else np.inf) for algo, scores in flat.items()
        }
        for i, (first, one) in enumerate(circuits.items()):
            for second, other in list(circuits.items())[i:]:
                exact = one.sum() == count == other.sum() and count > 0
                similar[count][first][second] = float((one & other).sum() / count) if exact else float("nan")
    return similar


def _flat(scores: PruneScores, modules: List[str]) -> np.ndarray:
    return np.asarray(np.abs(np.concatenate([to_numpy(scores[name]).reshape(-1) for name in modules])))


def task_prune_scores_similarities(
    task_prune_scores: TaskPruneScores, edge_counts: List[int], true_edge_counts: bool = False
) -> Dict[TaskKey, Similarities]:
    """:func:`prune_score_similarities` of each task; ``true_edge_counts``: at its official size, too."""
    similar = {}
    for task, scores in task_prune_scores.items():
        official = []
        if true_edge_counts:
            size = TASK_DICT[task].true_edge_count
            if size is None:
                raise ValueError(f"the task {task!r} has no official edges")
            official = [size]
        similar[task] = prune_score_similarities(scores, official + edge_counts)
    return similar


def prune_score_similarities_plotly(
    task_prune_scores: TaskPruneScores, edge_counts: List[int], ground_truths: bool = False
) -> Any:
    """A plotly figure: a heat map of common edges for each task (rows) and size (columns). Raises
    ModuleNotFoundError without plotly.
    """
    _, subplots = plotly("similarities")
    similar = task_prune_scores_similarities(task_prune_scores, edge_counts, ground_truths)
    columns = max((len(by_count) for by_count in similar.values()), default=1)
    titles = (["official size"] if ground_truths else []) + [f"{count} edges" for count in edge_counts]
    figure = subplots.make_subplots(
        rows=len(similar), cols=columns, row_titles=[TASK_DICT[key].name for key in similar], column_titles=titles,
        shared_xaxes=True, shared_yaxes=True,
    )  # fmt: skip
    algo_count = 1
    for row, by_count in enumerate(similar.values(), start=1):
        for column, by_algo in enumerate(by_count.values(), start=1):
            algo_count = max(algo_count, len(by_algo))
            names = [PRUNE_ALGO_DICT[key].short_name if key in PRUNE_ALGO_DICT else key for key in by_algo]
            values = [[by_algo[one].get(other, float("nan")) for other in by_algo] for one in by_algo]
            figure.add_heatmap(
                x=names, y=names, z=values, zmin=0, zmax=1, colorscale="Viridis", showscale=False,
                texttemplate="%{z:.0%}", row=row, col=column,
            )  # fmt: skip
    figure.update_layout(width=columns * 80 * algo_count + 160, height=len(similar) * 60 * algo_count + 120)
    return figure
