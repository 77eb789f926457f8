# SPDX-License-Identifier: Apache-2.0
"""The share of x so far, compiled by Tracr; prompts are BOS and five tokens."""

from __future__ import annotations

from typing import Dict, Set

from .....types import Edge
from .....utils.patchable_model import PatchableModel
from .._edges import check, edges_named

_POSITIONS = [1, 2, 3, 4, 5]
_RESAMPLED = ("Resid Start->MLP 0", "MLP 0->A1.0.V", "A1.0->Resid End")
_ZEROED = (*_RESAMPLED, "Resid Start->A1.0.Q", "Resid Start->A1.0.K")


def tracr_xproportion_official_edges(
    model: PatchableModel,
    token_positions: bool = False,
    word_idxs: Dict[str, int] = {},
    seq_start_idx: int = 0,
) -> Set[Edge]:
    """The edges that must stay under resample ablation; ``token_positions``: at 1 to 5, less
    ``seq_start_idx``. Raises ValueError for another model and a graph without ``separate_qkv``.
    """
    check(model, "tracr-xproportion", 2, 1, token_positions, word_idxs, ())
    return edges_named(model, dict.fromkeys(_RESAMPLED, _POSITIONS), token_positions, seq_start_idx)


def tracr_xproportion_acdc_edges(
    model: PatchableModel,
    token_positions: bool = False,
    word_idxs: Dict[str, int] = {},
    seq_start_idx: int = 0,
) -> Set[Edge]:
    """The edges that must stay under zero ablation (Conmy et al., arXiv:2304.14997); arguments and errors
    as :func:`tracr_xproportion_official_edges`.
    """
    check(model, "tracr-xproportion", 2, 1, token_positions, word_idxs, ())
    return edges_named(model, dict.fromkeys(_ZEROED, _POSITIONS), token_positions, seq_start_idx)
