# SPDX-License-Identifier: Apache-2.0
"""How often the answer wins."""

from __future__ import annotations

import numpy as np

from ...data import PromptDataLoader
from ...types import CircuitOutputs, Measurements
from ...utils.patchable_model import PatchableModel
from ...utils.tensor_ops import correct_answer_greater_than_incorrect_proportion, correct_answer_proportion


def measure_correct_ans_percent(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    pruned_outs: CircuitOutputs,
    out_of_correct_and_incorrect_answers: bool = False,
) -> Measurements:
    """(edge count, percent of prompts whose answer has the largest logit) of each circuit, among all
    tokens or among the answers. Raises ValueError for prompts of several answers.
    """
    among = out_of_correct_and_incorrect_answers
    of = correct_answer_greater_than_incorrect_proportion if among else correct_answer_proportion
    return [
        (count, float(np.mean([of(outs[batch.key], batch) for batch in dataloader])) * 100)
        for count, outs in pruned_outs.items()
    ]
