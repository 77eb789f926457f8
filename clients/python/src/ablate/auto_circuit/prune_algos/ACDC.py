# SPDX-License-Identifier: Apache-2.0
"""Automated circuit discovery."""

from __future__ import annotations

from typing import Any, Callable, List, Literal, Optional, Set

from ..._acdc import ACDC
from ..data import PromptDataLoader
from ..types import CircuitOutputs, Edge, PruneScores
from ..utils.patchable_model import PatchableModel
from ._run import run


def acdc_prune_scores(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    official_edges: Optional[Set[Edge]],
    tao_exps: List[int] = list(range(-5, -1)),
    tao_bases: List[int] = [1, 3, 5, 7, 9],
    faithfulness_target: Literal["kl_div", "mse"] = "kl_div",
    test_mode: bool = False,
    run_circuits_ref: Optional[Callable[..., CircuitOutputs]] = None,
    show_graphs: bool = False,
    draw_seq_graph_ref: Optional[Callable[..., Any]] = None,
) -> PruneScores:
    """The smallest tau that removed an edge, inf where none did, as :class:`ablate.ACDC`; of the first
    batch. ``test_mode`` checked AutoCircuit's own loop, and is refused with what goes with it.
    """
    if test_mode or show_graphs:
        raise NotImplementedError(
            "test_mode and show_graphs look into a loop that runs on the daemon; compare scores with "
            "run_circuits, and draw them with draw_seq_graph"
        )
    algo = ACDC(tao_exps=tao_exps, tao_bases=tao_bases, faithfulness_target=faithfulness_target)
    return run(model, dataloader, algo)
