# SPDX-License-Identifier: Apache-2.0
"""Circuits that avoid those which an algorithm found."""

from __future__ import annotations

from functools import partial

from ..prune_algos.circuit_probing import circuit_probing_prune_scores
from ..prune_algos.prune_algos import PRUNE_ALGO_DICT, PruneAlgo
from ..tasks import TASK_DICT
from ..types import AlgoPruneScores, TaskPruneScores
from ..utils.tensor_ops import prune_scores_threshold


def run_constrained_prune_funcs(task_prune_scores: TaskPruneScores) -> TaskPruneScores:
    """Circuits of the official size, trained to avoid the best edges of scores that there are: those of
    ``"Official Circuit"`` and ``"Tree Probing"``, as in AutoCircuit. Task -> ``"Constrained Circuit
    Probing <algorithm>"`` -> scores; the algorithms join ``PRUNE_ALGO_DICT``.

    Raises ValueError for a task without official edges.
    """
    constrained: TaskPruneScores = {}
    for task_key, by_algo in task_prune_scores.items():
        task = TASK_DICT[task_key]
        size = task.true_edge_count
        if size is None:
            raise ValueError(f"the task {task_key!r} has no official edges")
        found: AlgoPruneScores = {}
        for key, scores in by_algo.items():
            if key not in ("Official Circuit", "Tree Probing"):
                continue
            threshold = prune_scores_threshold(scores, size)
            algo = PruneAlgo(
                f"Constrained Circuit Probing {key}",
                f"Not {PRUNE_ALGO_DICT[key].name} Circuit Probing",
                partial(
                    circuit_probing_prune_scores, learning_rate=0.1, epochs=2000, regularize_lambda=0.1,
                    mask_fn="hard_concrete", show_train_graph=True, circuit_sizes=["true_size"],
                    tree_optimisation=True, avoid_lambda=0.3,
                    avoid_edges={edge for edge in task.model.edges if abs(edge.prune_score(scores)) >= threshold},
                ),
                f"¬{PRUNE_ALGO_DICT[key].short_name} TP",
            )  # fmt: skip
            PRUNE_ALGO_DICT[algo.key] = algo
            if algo.key not in by_algo:
                found[algo.key] = algo.func(task.model, task.train_loader, task.true_edges)
        constrained[task_key] = found
    return constrained
