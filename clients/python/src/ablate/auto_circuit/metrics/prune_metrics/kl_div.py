# SPDX-License-Identifier: Apache-2.0
"""The divergence of circuits from the model."""

from __future__ import annotations

import numpy as np

from ...data import PromptDataLoader
from ...types import CircuitOutputs, Measurements
from ...utils.patchable_model import PatchableModel
from ...utils.tensor_ops import log_softmax, multibatch_kl_div
from ._values import plain_logits


def measure_kl_div(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    circuit_outs: CircuitOutputs,
    compare_to_clean: bool = True,
) -> Measurements:
    """(edge count, mean KL divergence of the circuit from the whole model on the clean, or the corrupt,
    prompts) of each circuit.
    """
    batches = list(dataloader)
    whole = np.concatenate(
        [log_softmax(plain_logits(model, one.clean if compare_to_clean else one.corrupt)) for one in batches]
    )
    measured: Measurements = []
    for count, outs in circuit_outs.items():
        circuit = np.concatenate([log_softmax(outs[batch.key]) for batch in batches])
        measured.append((count, max(float(multibatch_kl_div(circuit, whole)), 0.0)))
    return measured
