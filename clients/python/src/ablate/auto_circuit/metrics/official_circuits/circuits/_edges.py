# SPDX-License-Identifier: Apache-2.0
"""How published circuits are written down: edges, or heads, by name and token position."""

from __future__ import annotations

from typing import Collection, Dict, List, Mapping, Set

from ....types import Edge
from ....utils.patchable_model import PatchableModel

Positions = Dict[str, List[int]]
"""Name of an edge or of a head -> the token positions where it is in the circuit."""


def check(
    model: PatchableModel,
    what: str,
    n_layers: int,
    n_heads: int,
    token_positions: bool,
    word_idxs: Mapping[str, int],
    words: Collection[str],
    separate_qkv: bool | None = True,
) -> None:
    """ValueError for a model that the circuit is not of, a graph that lacks its nodes, and positions
    that are asked for and not given; ``separate_qkv`` None: either will do."""
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    if shape != (n_layers, n_heads):
        raise ValueError(
            f"the {what} circuit is of a model of {n_layers} layers with {n_heads} heads each, "
            f"not of {model.cfg.model_name!r} with {shape[0]} and {shape[1]}"
        )
    if separate_qkv is not None and model.separate_qkv is not separate_qkv:
        raise ValueError(f"the {what} circuit needs a graph with separate_qkv={separate_qkv}")
    if token_positions and model.seq_len is None:
        raise ValueError("token_positions=True needs a graph with seq_len, whose edges have positions")
    if token_positions and (missing := [word for word in words if word not in word_idxs]):
        names = ", ".join(map(repr, missing))
        raise ValueError(f"token_positions=True needs word_idxs, of which {names} are not there")


def edges_named(model: PatchableModel, present: Positions, token_positions: bool, seq_start_idx: int) -> Set[Edge]:
    """The model's edges among those names, where ``token_positions`` at those positions alone."""
    return {
        edge
        for edge in model.edges
        if edge.name in present
        and (not token_positions or (edge.seq_idx or 0) + seq_start_idx in present[edge.name])
    }


def edges_of_heads(model: PatchableModel, heads: Positions, token_positions: bool, seq_start_idx: int) -> Set[Edge]:
    """All edges but those that begin in a head which is not among these (at these positions)."""
    return {
        edge
        for edge in model.edges
        if edge.src.head_idx is None
        or edge.src.name in heads
        and (not token_positions or (edge.seq_idx or 0) + seq_start_idx in heads[edge.src.name])
    }
