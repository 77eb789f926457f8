# SPDX-License-Identifier: Apache-2.0
"""Random scores, a baseline."""

from __future__ import annotations

import random
from typing import Optional, Set

from ..._algorithms import RandomScores
from ..data import PromptDataLoader
from ..types import Edge, PruneScores
from ..utils.patchable_model import PatchableModel
from ._run import run


def random_prune_scores(
    model: PatchableModel, dataloader: PromptDataLoader, official_edges: Optional[Set[Edge]]
) -> PruneScores:
    """Uniform in [0, 1), from a seed of Python's ``random``."""
    return run(model, dataloader, RandomScores(seed=random.getrandbits(31)))
