# SPDX-License-Identifier: Apache-2.0
"""Trained masks, for circuits of several sizes."""

from __future__ import annotations

from typing import List, Literal, Optional, Set, Union

from ..._training import CircuitProbing
from ..data import PromptDataLoader
from ..types import Edge, MaskFn, PruneScores
from ..utils.patchable_model import PatchableModel
from ._run import names
from .subnetwork_probing import SP_FAITHFULNESS_TARGET, init_mask_val, train


def circuit_probing_prune_scores(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    official_edges: Optional[Set[Edge]],
    learning_rate: float = 0.1,
    epochs: int = 20,
    regularize_lambda: float = 10,
    mask_fn: MaskFn = "hard_concrete",
    dropout_p: float = 0.0,
    init_val: float = -init_mask_val,
    show_train_graph: bool = False,
    circuit_sizes: List[Union[int, Literal["true_size"]]] = ["true_size"],
    tree_optimisation: bool = False,
    avoid_edges: Optional[Set[Edge]] = None,
    avoid_lambda: float = 1.0,
    faithfulness_target: SP_FAITHFULNESS_TARGET = "kl_div",
    validation_dataloader: Optional[PromptDataLoader] = None,
) -> PruneScores:
    """As :class:`ablate.CircuitProbing`; ``"true_size"`` is the number of official edges.

    Raises ValueError for ``"true_size"`` without official edges, and for a size that is there twice.
    """
    if "true_size" in circuit_sizes and not official_edges:
        raise ValueError("'true_size' is the number of official_edges, which must then be given")
    sizes = [len(official_edges or ()) if size == "true_size" else int(size) for size in circuit_sizes]
    if len(set(sizes)) != len(sizes):
        raise ValueError(f"circuit_sizes {sizes} has a size twice")
    algo = CircuitProbing(
        learning_rate=learning_rate,
        epochs=epochs,
        regularize_lambda=regularize_lambda,
        mask_fn=mask_fn,
        dropout_p=dropout_p,
        init_val=init_val,
        tree_optimisation=tree_optimisation,
        avoid_edges=names(avoid_edges),
        avoid_lambda=avoid_lambda,
        faithfulness_target=faithfulness_target,
        circuit_sizes=sorted(sizes),
    )
    return train(model, dataloader, algo, validation_dataloader, show_train_graph)
