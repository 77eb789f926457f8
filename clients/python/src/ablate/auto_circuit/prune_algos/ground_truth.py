# SPDX-License-Identifier: Apache-2.0
"""The official circuit as scores."""

from __future__ import annotations

from typing import Optional, Set

from ..data import PromptDataLoader
from ..types import Edge, PruneScores
from ..utils.patchable_model import PatchableModel


def ground_truth_prune_scores(
    model: PatchableModel, dataloader: PromptDataLoader, official_edges: Optional[Set[Edge]]
) -> PruneScores:
    """1 for the official edges, 0 for all others. Raises ValueError without any."""
    if official_edges is None:
        raise ValueError("official_edges must be given: they are the ground truth")
    return model.circuit_prune_scores(official_edges)
