# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.utils.graph_utils``."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Collection, Dict, Iterator, List, Optional, Set, Tuple, Union

import numpy as np

from ..._patchable import PatchableModel as _PatchableModel
from ..._patchable import edge_key, make_patchable
from .._missing import missing_from
from .._session import on_daemon
from ..types import DestNode, Edge, EdgeCounts, MaskFn, Node, OutputSlice, PruneScores, SrcNode, TestEdges
from .ablation_activations import SrcAblations
from .patchable_model import PatchableModel
from .tensor_ops import flat_magnitudes


def patchable_model(
    model: Any,
    factorized: bool,
    slice_output: OutputSlice = None,
    seq_len: Optional[int] = None,
    separate_qkv: Optional[bool] = None,
    kv_caches: Tuple[Any, ...] = (None,),
    device: Any = "cpu",
) -> PatchableModel:
    """A graph over a model that is on the daemon, or is uploaded: a Hugging Face folder or model, a
    HookedTransformer (as config and safetensors). The model itself is left as it is.

    ``kv_caches``: the loaders' (:class:`ablate.auto_circuit.data.KvPrefix`), or :class:`ablate.KvCache`.
    ``device`` is not looked at.

    Raises ValueError for a transformer without ``separate_qkv`` and for prefixes that differ, TypeError
    for a model that cannot be uploaded.
    """
    if isinstance(model, _PatchableModel):
        raise TypeError("the model is patchable already; its wrapped_model is the one below")
    resident = on_daemon(model)
    prefixes = {tuple(cache.tokens) for cache in kv_caches if cache is not None}
    if len(prefixes) > 1:
        raise ValueError("kv_caches stand for different prefixes; make one patchable model for each")
    caches = [resident.kv_cache([list(tokens)]) for tokens in prefixes]
    return make_patchable(PatchableModel, resident, factorized, slice_output, seq_len, separate_qkv, caches)


def graph_edges(
    model: Any,
    factorized: bool,
    separate_qkv: Optional[bool] = None,
    seq_len: Optional[int] = None,
) -> Tuple[
    Set[Node], Set[SrcNode], Set[DestNode], Dict[Optional[int], List[Edge]], Set[Edge], int, Optional[int]
]:
    """Nodes and edges of a model's graph: ``(nodes, sources, destinations, edges by position, edges,
    dimension of positions, seq_len)``. ``model`` and errors as :func:`patchable_model`.
    """
    made = patchable_model(model, factorized, None, seq_len, separate_qkv)
    try:
        return made.nodes, made.srcs, made.dests, made.edge_dict, made.edges, made.seq_dim, made.seq_len
    finally:
        made.graph.delete()


@contextmanager
def patch_mode(
    model: PatchableModel,
    patch_src_outs: SrcAblations,
    edges: Optional[Collection[Union[str, Edge]]] = None,
    curr_src_outs: Any = None,
) -> Iterator[None]:
    """Passes in this ``with`` block carry ``patch_src_outs`` along masked edges.

    ``patch_src_outs``: from :func:`src_ablations`, or an :class:`ablate.ResidentAblation`. ``edges``:
    these are masked and no others; None leaves masks as they are. Masks stay as they are afterwards.

    Raises TypeError for a tensor of one's own and for ``curr_src_outs``, and
    :class:`ablate.InvalidArgumentError` (``EDGE_NOT_IN_GRAPH``) for a name that is no edge.
    """
    if curr_src_outs is not None:
        raise TypeError("curr_src_outs is where the daemon keeps sources' outputs during a pass; leave it out")
    ablation = SrcAblations.of(patch_src_outs)
    if edges is not None:
        model.graph.set_patch_mask({edge_key(edge): 1.0 for edge in edges}, reset_others=True)
    before, model._patch = model._patch, {"ablation": ablation.ablation}
    try:
        yield
    finally:
        model._patch = before


def set_all_masks(model: PatchableModel, val: float) -> None:
    """Sets every mask to ``val``."""
    model.set_patch_masks(float(val))


@contextmanager
def train_mask_mode(model: PatchableModel, requires_grad: bool = True) -> Iterator[Dict[str, Any]]:
    """The masks as torch parameters by module: in this block the passes of ``patch_mode`` take their
    masks from these, and ``loss.backward()`` fills their gradients. The masks stay as trained. Needs
    torch. Passes give the last position's logits alone, ``[batch, 1, d_vocab]``.
    """
    with model.graph.train_mask_mode() as parameters:
        for parameter in parameters.values():
            parameter.requires_grad_(requires_grad)
        yield parameters


@contextmanager
def mask_fn_mode(model: PatchableModel, mask_fn: MaskFn, dropout_p: float = 0.0) -> Iterator[None]:
    """What masks go through in this ``with`` block, and the chance that a value is dropped."""
    with model.graph.mask_fn_mode(mask_fn, dropout_p):
        yield


@contextmanager
def set_mask_batch_size(model: PatchableModel, batch_size: Optional[int]) -> Iterator[None]:
    """In this ``with`` block masks, and their gradients, have a row for each of ``batch_size`` prompts."""
    with model.graph.set_mask_batch_size(batch_size):
        yield


def edge_counts_util(
    edges: Set[Edge],
    test_counts: Optional[TestEdges] = None,
    prune_scores: Optional[PruneScores] = None,
    zero_edges: Optional[bool] = None,
    all_edges: Optional[bool] = None,
    true_edge_count: Optional[int] = None,
) -> List[int]:
    """Sizes of circuits to test, ascending.

    ``test_counts`` None: GROUPS for ``prune_scores`` of few values, else LOGARITHMIC above 200 edges,
    else ALL. ``zero_edges``, ``all_edges`` None: the ends belong to lists of more than two sizes.
    """
    n_edges = len(edges)
    groups = None if prune_scores is None else np.unique(flat_magnitudes(prune_scores), return_counts=True)[1]
    rule = test_counts
    if rule is None:
        few = groups is not None and len(groups) < min(n_edges / 2, 100)
        rule = EdgeCounts.GROUPS if few else EdgeCounts.LOGARITHMIC if n_edges > 200 else EdgeCounts.ALL
    if rule is EdgeCounts.ALL:
        counts = list(range(n_edges + 1))
    elif rule is EdgeCounts.LOGARITHMIC:
        counts = [n for n in range(1, n_edges) if n % 10 ** (len(str(n)) - 1) == 0]
    elif rule is EdgeCounts.GROUPS:
        if groups is None:
            raise ValueError("EdgeCounts.GROUPS needs prune_scores, whose ties are the groups")
        counts = np.cumsum(groups[::-1]).tolist()
    elif isinstance(rule, list):
        counts = [n if isinstance(n, int) else int(n_edges * n) for n in rule]
    else:
        raise ValueError(f"test_counts must be an EdgeCounts or a list of numbers, not {rule!r}")
    is_curve = len(counts) > 2
    for end, wanted in ((0, zero_edges), (n_edges, all_edges)):
        wanted = is_curve if wanted is None else wanted
        if wanted and end not in counts:
            counts.append(end)
        elif not wanted and end in counts:
            counts.remove(end)
    if true_edge_count is not None and true_edge_count not in counts:
        counts.append(true_edge_count)
    return sorted(counts)


__all__ = [
    "edge_counts_util",
    "graph_edges",
    "mask_fn_mode",
    "patch_mode",
    "patchable_model",
    "set_all_masks",
    "set_mask_batch_size",
    "train_mask_mode",
]


__getattr__ = missing_from(__name__)
