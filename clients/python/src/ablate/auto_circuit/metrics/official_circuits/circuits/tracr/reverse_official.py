# SPDX-License-Identifier: Apache-2.0
"""Reversing a list, compiled by Tracr; prompts are BOS and five tokens, of which the middle one stays."""

from __future__ import annotations

from typing import Dict, Set

from .....types import Edge
from .....utils.patchable_model import PatchableModel
from .._edges import check, edges_named

_POSITIONS = [1, 2, 4, 5]
_RESAMPLED = ("Resid Start->A3.0.V", "A3.0->Resid End")
_ZEROED = (*_RESAMPLED, "Resid Start->A0.0.V", "A0.0->MLP 0", "Resid Start->MLP 0", "Resid Start->MLP 1",
           "MLP 0->MLP 1", "MLP 1->MLP 2", "MLP 2->A3.0.Q", "Resid Start->A3.0.K")  # fmt: skip


def tracr_reverse_true_edges(
    model: PatchableModel,
    token_positions: bool = False,
    word_idxs: Dict[str, int] = {},
    seq_start_idx: int = 0,
) -> Set[Edge]:
    """The edges that must stay under resample ablation; ``token_positions``: at 1, 2, 4 and 5, less
    ``seq_start_idx``. Raises ValueError for another model and a graph without ``separate_qkv``.
    """
    check(model, "tracr-reverse", 4, 1, token_positions, word_idxs, ())
    return edges_named(model, dict.fromkeys(_RESAMPLED, _POSITIONS), token_positions, seq_start_idx)


def tracr_reverse_acdc_edges(
    model: PatchableModel,
    token_positions: bool = False,
    word_idxs: Dict[str, int] = {},
    seq_start_idx: int = 0,
) -> Set[Edge]:
    """The edges that must stay under zero ablation (Conmy et al., arXiv:2304.14997); arguments and errors
    as :func:`tracr_reverse_true_edges`.
    """
    check(model, "tracr-reverse", 4, 1, token_positions, word_idxs, ())
    return edges_named(model, dict.fromkeys(_ZEROED, _POSITIONS), token_positions, seq_start_idx)
