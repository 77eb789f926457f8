# SPDX-License-Identifier: Apache-2.0
"""Gradients of the masks."""

from __future__ import annotations

from typing import Literal, Optional, Set

from ..._algorithms import MaskGradient
from ..data import PromptDataLoader
from ..types import AblationType, Edge, PruneScores
from ..utils.ablation_activations import check_clean_corrupt
from ..utils.patchable_model import PatchableModel
from ._run import run


def mask_gradient_prune_scores(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    official_edges: Optional[Set[Edge]],
    grad_function: Literal["logit", "prob", "logprob", "logit_exp"],
    answer_function: Literal["avg_diff", "avg_val", "mse"],
    mask_val: Optional[float] = None,
    integrated_grad_samples: Optional[int] = None,
    ablation_type: AblationType = AblationType.RESAMPLE,
    clean_corrupt: Optional[Literal["clean", "corrupt"]] = "corrupt",
) -> PruneScores:
    """d loss / d mask, as :class:`ablate.MaskGradient`.

    Raises ValueError unless exactly one of ``mask_val`` and ``integrated_grad_samples`` is given, and
    for a ``clean_corrupt`` that the ablation has no use for.
    """
    if (mask_val is None) == (integrated_grad_samples is None):
        raise ValueError("give exactly one of mask_val and integrated_grad_samples")
    check_clean_corrupt(ablation_type, clean_corrupt)
    algo = MaskGradient(
        grad_function=grad_function,
        answer_function=answer_function,
        mask_val=mask_val,
        integrated_grad_samples=integrated_grad_samples,
        ablation=ablation_type.name.lower(),
        clean_corrupt=clean_corrupt or "corrupt",
    )
    return run(model, dataloader, algo)
