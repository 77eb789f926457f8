# SPDX-License-Identifier: Apache-2.0
"""How far the circuits of several scores agree."""

from __future__ import annotations

from collections import defaultdict
from typing import Dict, List

import numpy as np

from ..._arrays import to_numpy
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
