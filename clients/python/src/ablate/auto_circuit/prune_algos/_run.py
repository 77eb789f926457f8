# SPDX-License-Identifier: Apache-2.0
"""A prune algorithm as a job on the daemon."""

from __future__ import annotations

from typing import Any, Collection, Optional

from ..._algorithms import ActivationMagnitude, Algorithm, RandomScores
from ..._jobs import PruneScores
from ..data import PromptDataLoader
from ..utils.patchable_model import PatchableModel


def run(
    model: PatchableModel, dataloader: PromptDataLoader, algo: Algorithm, prompt_count: Optional[int] = None
) -> PruneScores:
    """Scores of a loader's prompts, in its batches.

    Raises NotImplementedError for a model whose ``slice_output`` is not ``"last_seq"``, unless the
    algorithm reads no logits.
    """
    if model._slice_output != "last_seq" and not isinstance(algo, (ActivationMagnitude, RandomScores)):
        raise NotImplementedError(
            f"this model has slice_output={model._slice_output!r}, and scores are of the last position's "
            'logits: give patchable_model(..., slice_output="last_seq")'
        )
    return model.graph.prune_scores(
        dataloader.resident(model.client, bool(model.prefix)),
        algo,
        batch_size=dataloader.batch_size,
        prompt_count=prompt_count,
        prepend_bos=False,
    )


def names(edges: Optional[Collection[Any]]) -> list[str]:
    """Edges as names, a position behind those that have one: ``"A9.9->MLP 11[4]"``."""

    def name(edge: Any) -> str:
        if isinstance(edge, str):
            return edge
        return f"{edge.name}" if edge.seq_idx is None else f"{edge.name}[{edge.seq_idx}]"

    return sorted({name(edge) for edge in edges or ()})
