# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.utils.tensor_ops``. Results are torch tensors where torch is importable."""

from __future__ import annotations

import math
from typing import Any, Union

import numpy as np

from ..._arrays import Array, to_backend, to_numpy
from ..data import PromptPairBatch
from ..types import PruneScores


def _out(values: Any) -> Array:
    return to_backend(np.asarray(values), "auto")


def flat_magnitudes(prune_scores: PruneScores) -> np.ndarray:
    """|score| of all edges in one numpy array, ``[edges]``."""
    flat: np.ndarray = np.concatenate([to_numpy(scores).reshape(-1) for scores in prune_scores.values()])
    return np.asarray(np.abs(flat))


def flat_prune_scores(prune_scores: PruneScores) -> Array:
    """All scores in one array, module after module: ``[edges]``."""
    return _out(np.concatenate([to_numpy(scores).reshape(-1) for scores in prune_scores.values()]))


def desc_prune_scores(prune_scores: PruneScores) -> Array:
    """|score| of all edges, descending: ``[edges]``."""
    return _out(np.sort(flat_magnitudes(prune_scores))[::-1].copy())


def prune_scores_threshold(prune_scores: Union[PruneScores, Array], edge_count: int) -> Array:
    """The smallest |score| of the ``edge_count`` largest, a scalar; inf for 0. An array is taken as descending."""
    if edge_count == 0:
        return _out(np.float32(math.inf))
    descending = desc_prune_scores(prune_scores) if isinstance(prune_scores, dict) else prune_scores
    return descending[edge_count - 1]


def sample_hard_concrete(mask: Array, batch_size: int, mask_expanded: bool = False) -> Array:
    """A draw of the hard concrete distribution for each of ``batch_size`` rows: ``[batch, *mask]``.
    ``mask_expanded``: the mask has its rows already."""
    values = to_numpy(mask)
    if not mask_expanded:
        values = np.repeat(values[None], batch_size, axis=0)
    elif len(values) != batch_size:
        raise ValueError(f"the mask has {len(values)} rows, not {batch_size}")
    u = np.random.default_rng().uniform(size=values.shape).clip(1e-4, 1 - 1e-4)
    s = 1 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + values) * 1.5))
    return _out((1.2 * s - 0.1).clip(0, 1).astype(values.dtype))


def log_softmax(logits: Any) -> np.ndarray:
    """Over the last dimension, in double precision; shaped as ``logits``."""
    values: np.ndarray = to_numpy(logits).astype(np.float64)
    values = values - values.max(axis=-1, keepdims=True)
    return np.asarray(values - np.log(np.exp(values).sum(axis=-1, keepdims=True)))


def _means(values: np.ndarray, answers: Any) -> np.ndarray:
    """The mean value of each row's answers: ``[batch]``."""
    return np.array([row[to_numpy(ids)].mean() for row, ids in zip(values, answers)])


def indices_vals(vals: Array, indices: Array) -> Array:
    """``vals`` at ``indices`` along the last dimension; shaped as ``indices``."""
    return _out(np.take_along_axis(to_numpy(vals), to_numpy(indices), axis=-1))


def vocab_avg_val(vals: Array, indices: Array) -> Array:
    """The mean of :func:`indices_vals`, a scalar."""
    return indices_vals(vals, indices).mean()


def batch_avg_answer_val(vals: Array, batch: PromptPairBatch, wrong_answer: bool = False) -> Array:
    """The mean value of the (wrong) answers, a scalar."""
    return _out(_means(to_numpy(vals), batch.wrong_answers if wrong_answer else batch.answers).mean())


def batch_answer_diffs(vals: Array, batch: PromptPairBatch) -> Array:
    """Each prompt's mean over answers minus that over wrong answers: ``[batch]``."""
    values = to_numpy(vals)
    return _out(_means(values, batch.answers) - _means(values, batch.wrong_answers))


def batch_avg_answer_diff(vals: Array, batch: PromptPairBatch) -> Array:
    """The mean of :func:`batch_answer_diffs`."""
    return batch_answer_diffs(vals, batch).mean()


def batch_answer_diff_percents(pred_vals: Array, target_vals: Array, batch: PromptPairBatch) -> Array:
    """Each prompt's answer difference in percent of the target's: ``[batch]``."""
    return batch_answer_diffs(pred_vals, batch) / batch_answer_diffs(target_vals, batch) * 100


def _only(answers: Any) -> list[int]:
    """Each prompt's one answer."""
    for ids in answers:
        if to_numpy(ids).size != 1:
            raise ValueError("each prompt must have exactly one answer")
    return [int(to_numpy(ids).reshape(-1)[0]) for ids in answers]


def correct_answer_proportion(logits: Array, batch: PromptPairBatch) -> Array:
    """How often the answer is the largest of all logits, a scalar. Raises ValueError for several answers."""
    return _out((to_numpy(logits).argmax(axis=-1) == _only(batch.answers)).mean(dtype=np.float32))


def correct_answer_greater_than_incorrect_proportion(logits: Array, batch: PromptPairBatch) -> Array:
    """How often the answer's logit is at least that of every wrong answer, a scalar. Raises ValueError for
    several answers."""
    rows = zip(to_numpy(logits), _only(batch.answers), batch.wrong_answers)
    right = [row[answer] >= row[to_numpy(wrong)].max() for row, answer, wrong in rows]
    return _out(np.mean(right, dtype=np.float32))


def multibatch_kl_div(input_logprobs: Array, target_logprobs: Array) -> Array:
    """KL(target || input): summed over the last dimension, averaged over the others, a scalar. Raises
    ValueError for arrays of different shapes."""
    inputs, targets = to_numpy(input_logprobs), to_numpy(target_logprobs)
    if inputs.shape != targets.shape:
        raise ValueError(f"the shapes differ: {inputs.shape} and {targets.shape}")
    return _out((np.exp(targets) * (targets - inputs)).sum() / math.prod(inputs.shape[:-1]))
