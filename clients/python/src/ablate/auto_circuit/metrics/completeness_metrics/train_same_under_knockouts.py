# SPDX-License-Identifier: Apache-2.0
"""Knockouts that are trained: which edges of a circuit tell it from the model, when both lose them."""

from __future__ import annotations

import math
from typing import List, Literal

from ...._knockouts import Knockouts
from ...prune_algos._run import run
from ...prune_algos.prune_algos import PRUNE_ALGO_DICT, PruneAlgo
from ...prune_algos.subnetwork_probing import show_curve
from ...tasks import TASK_DICT, Task
from ...types import AlgoKey, MaskFn, PruneScores, TaskPruneScores

mask_p, left, right, temp = 0.9, -0.1, 1.1, 2 / 3
p = (mask_p - left) / (right - left)
init_mask_val = math.log(p / (1 - p))


def train_same_under_knockout_prune_scores(
    task: Task,
    algo: PruneAlgo,
    algo_ps: PruneScores,
    circuit_size: int,
    learning_rate: float,
    epochs: int,
    regularize_lambda: float,
    mask_fn: MaskFn = "hard_concrete",
    faithfulness_target: Literal["kl_div", "logit_diff"] = "kl_div",
) -> PruneScores:
    """As :class:`ablate.Knockouts`, of the circuit of ``circuit_size`` edges, on the task's test prompts.
    ``algo`` names it in the figure of the curve, which a notebook shows.

    Raises :class:`ablate.InvalidArgumentError` (``ALGORITHM_OPTIONS``) for ``mask_fn=None``: nothing
    bounds the masks then.
    """
    circuit = task.model.graph.upload_scores(dict(algo_ps), origin=f"circuit of {algo.name}", prepend_bos=False)
    scores = run(
        task.model,
        task.test_loader,
        Knockouts(
            circuit,
            circuit_size,
            learning_rate=learning_rate,
            epochs=epochs,
            regularize_lambda=regularize_lambda,
            mask_fn=mask_fn,
            faithfulness_target=faithfulness_target,
        ),
    )
    title = f"Same Under Knockouts for Task: {task.name}, Algo: {algo.name}"
    show_curve(scores.job.training_curve(), faithfulness_target, title)
    return scores


def train_same_under_knockouts(
    task_prune_scores: TaskPruneScores,
    algo_keys: List[AlgoKey],
    learning_rate: float,
    epochs: int,
    regularize_lambda: float,
    faithfulness_target: Literal["kl_div", "logit_diff"] = "kl_div",
) -> TaskPruneScores:
    """:func:`train_same_under_knockout_prune_scores` of each task and algorithm, at the official size;
    ``algo_keys`` is not looked at, as in AutoCircuit. ValueError for a task without official edges."""
    trained: TaskPruneScores = {}
    for key, by_algo in task_prune_scores.items():
        task = TASK_DICT[key]
        size = task.true_edge_count
        if size is None:
            raise ValueError(f"the task {key!r} has no official edges")
        trained[key] = {
            algo: train_same_under_knockout_prune_scores(
                task,
                PRUNE_ALGO_DICT[algo],
                scores,
                size,
                learning_rate,
                epochs,
                regularize_lambda,
                faithfulness_target=faithfulness_target,
            )
            for algo, scores in by_algo.items()
        }
    return trained
