# SPDX-License-Identifier: Apache-2.0
"""Edge attribution patching."""

from __future__ import annotations

from typing import Optional, Set

from ..._algorithms import EdgeAttributionPatching, MaskGradient
from ..data import PromptDataLoader
from ..types import Edge, PruneScores
from ..utils.patchable_model import PatchableModel
from ._run import run


def edge_attribution_patching_prune_scores(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    official_edges: Optional[Set[Edge]],
    answer_diff: bool = True,
) -> PruneScores:
    """As :class:`ablate.EdgeAttributionPatching`; ``answer_diff`` False: of the answers' mean logit."""
    if answer_diff:
        return run(model, dataloader, EdgeAttributionPatching())
    return run(model, dataloader, MaskGradient(answer_function="avg_val", mask_val=0.0))
