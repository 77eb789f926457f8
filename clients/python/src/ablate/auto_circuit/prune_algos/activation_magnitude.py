# SPDX-License-Identifier: Apache-2.0
"""Activation magnitude, a baseline."""

from __future__ import annotations

from typing import Optional, Set

from ..._algorithms import ActivationMagnitude
from ..data import PromptDataLoader
from ..types import Edge, PruneScores
from ..utils.patchable_model import PatchableModel
from ._run import run


def activation_magnitude_prune_scores(
    model: PatchableModel, dataloader: PromptDataLoader, official_edges: Optional[Set[Edge]]
) -> PruneScores:
    """As :class:`ablate.ActivationMagnitude`."""
    return run(model, dataloader, ActivationMagnitude())
