# SPDX-License-Identifier: Apache-2.0
"""How well scores find the official edges."""

from __future__ import annotations

from typing import Set

from ...tasks import TASK_DICT
from ...types import Edge, EdgeCounts, Measurements, PruneScores, TaskMeasurements, TaskPruneScores
from ...utils.graph_utils import edge_counts_util
from ...utils.patchable_model import PatchableModel


def measure_roc(task_prune_scores: TaskPruneScores) -> TaskMeasurements:
    """:func:`measure_task_roc` of each task and algorithm. ValueError for a task without official edges."""
    measured: TaskMeasurements = {}
    for key, by_algo in task_prune_scores.items():
        task = TASK_DICT[key]
        official = task.true_edges
        if official is None:
            raise ValueError(f"the task {key!r} has no official edges")
        measured[key] = {algo: measure_task_roc(task.model, official, ps) for algo, ps in by_algo.items()}
    return measured


def measure_task_roc(
    model: PatchableModel, official_edges: Set[Edge], prune_scores: PruneScores, all_edges: bool = False
) -> Measurements:
    """(false positive rate, true positive rate) points, from (0, 0) to (1, 1), at the sizes of
    ``edge_counts_util``, or at all.
    """
    counts = edge_counts_util(
        model.edges, EdgeCounts.ALL if all_edges else None, None if all_edges else prune_scores
    )
    scores = model.graph.upload_scores(dict(prune_scores), origin="measure_roc", prepend_bos=False)
    official = model.circuit_prune_scores(official_edges)
    return list(model.client.roc(scores, official, edge_counts=counts).points)
