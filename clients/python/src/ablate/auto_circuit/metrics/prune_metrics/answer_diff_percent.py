# SPDX-License-Identifier: Apache-2.0
"""The share of the model's answer difference that a circuit keeps."""

from __future__ import annotations

from typing import Any, List, Tuple

import numpy as np

from ...._arrays import to_backend, to_numpy
from ..._missing import missing_from
from ...data import PromptDataLoader
from ...types import CircuitOutputs, Measurements
from ...utils.patchable_model import PatchableModel
from ...utils.tensor_ops import batch_answer_diffs
from ._values import ProbFunc, function, plain_logits


def measure_answer_diff_percent(
    model: PatchableModel,
    test_loader: PromptDataLoader,
    circuit_outs: CircuitOutputs,
    prob_func: ProbFunc = "logits",
    diff_of_means: bool = True,
) -> Measurements:
    """The means of :func:`answer_diff_percent`."""
    return answer_diff_percent(model, test_loader, circuit_outs, prob_func, diff_of_means)[0]


def answer_diff_percent(
    model: PatchableModel,
    test_loader: PromptDataLoader,
    circuit_outs: CircuitOutputs,
    prob_func: ProbFunc = "logits",
    diff_of_means: bool = True,
) -> Tuple[Measurements, Measurements, List[Tuple[int, Any]]]:
    """(means, standard deviations, percents by prompt) of each circuit's answer difference in percent of
    the model's on the clean prompts. ``diff_of_means``: the ratio of the means, without the others.
    """
    of = function(prob_func)
    batches = list(test_loader)

    def diffs(logits: List[Any]) -> np.ndarray:
        return np.concatenate([to_numpy(batch_answer_diffs(of(one), batch)) for one, batch in zip(logits, batches)])

    whole = diffs([plain_logits(model, batch.clean) for batch in batches])
    means: Measurements = []
    deviations: Measurements = []
    points: List[Tuple[int, Any]] = []
    for count, outs in circuit_outs.items():
        kept = diffs([outs[batch.key] for batch in batches])
        by_prompt = np.zeros(0, np.float32) if diff_of_means else kept / whole * 100
        means.append((count, float(kept.mean() / whole.mean() * 100 if diff_of_means else by_prompt.mean())))
        deviations.append((count, 0.0 if diff_of_means else float(by_prompt.std(ddof=1))))
        points.append((count, to_backend(by_prompt, "auto")))
    return means, deviations, points


__getattr__ = missing_from(__name__)
