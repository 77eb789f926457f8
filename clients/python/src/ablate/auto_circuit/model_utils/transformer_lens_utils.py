# SPDX-License-Identifier: Apache-2.0
"""The nodes of a transformer's graph. ``model``: what ``patchable_model`` takes."""

from __future__ import annotations

from typing import Any, Set, Tuple

from ..types import DestNode, SrcNode
from ..utils.graph_utils import graph_edges


def factorized_src_nodes(model: Any) -> Set[SrcNode]:
    """The sources of a factorized graph: Resid Start, heads, MLPs. Raises as ``patchable_model`` does."""
    return graph_edges(model, factorized=True, separate_qkv=True)[1]


def factorized_dest_nodes(model: Any, separate_qkv: bool) -> Set[DestNode]:
    """Its destinations: heads (their Q, K and V where ``separate_qkv``), MLPs, Resid End. Raises as
    ``patchable_model`` does."""
    return graph_edges(model, factorized=True, separate_qkv=separate_qkv)[2]


def simple_graph_nodes(model: Any) -> Tuple[Set[SrcNode], Set[DestNode]]:
    """The sources and destinations of an unfactorized graph. Raises as ``patchable_model`` does."""
    made = graph_edges(model, factorized=False, separate_qkv=True)
    return made[1], made[2]
