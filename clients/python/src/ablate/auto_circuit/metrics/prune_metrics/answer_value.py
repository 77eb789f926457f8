# SPDX-License-Identifier: Apache-2.0
"""The value of the answers."""

from __future__ import annotations

import numpy as np

from ..._missing import missing_from
from ...data import PromptDataLoader
from ...types import CircuitOutputs, Measurements
from ...utils.patchable_model import PatchableModel
from ...utils.tensor_ops import batch_avg_answer_val
from ._values import ProbFunc, function


def measure_answer_val(
    model: PatchableModel,
    test_loader: PromptDataLoader,
    circuit_outs: CircuitOutputs,
    prob_func: ProbFunc = "logits",
    wrong_answer: bool = False,
) -> Measurements:
    """(edge count, mean value of the (wrong) answers) of each circuit."""
    of = function(prob_func)
    return [
        (
            count,
            float(
                np.mean([batch_avg_answer_val(of(outs[batch.key]), batch, wrong_answer) for batch in test_loader])
            ),
        )
        for count, outs in circuit_outs.items()
    ]


__getattr__ = missing_from(__name__)
