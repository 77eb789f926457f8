# SPDX-License-Identifier: Apache-2.0
"""Scores and circuit sizes as requests for sweeps have them."""

from __future__ import annotations

from typing import Sequence, Union

from ._ablation import EdgeCounts, PatchType, ablation_id
from ._algorithms import Ablation
from ._enums import ablation_value, enum_value
from ._hooks import FwdHooks, make_interventions
from ._jobs import Scores, job_id_of
from .v1 import common_pb2, evaluate_pb2, run_pb2

SizesLike = Union[Sequence[Union[int, float]], EdgeCounts, str, None]
"""Circuit sizes: a list of edge counts (ints) and shares of all edges (floats), or a rule."""


def _sizes(
    edge_counts: SizesLike,
    true_edge_count: int | None,
    zero_edges: bool | None,
    all_edges: bool | None,
) -> tuple[Sequence[int], run_pb2.EdgeCounts | None]:
    """Whole numbers as a list, and rules and shares, which AutoCircuit's edge_counts_util is about."""
    ends = {None: run_pb2.EDGE_COUNTS_END_UNSPECIFIED, True: run_pb2.EDGE_COUNTS_END_ADD}
    sizes = run_pb2.EdgeCounts(
        true_edge_count=true_edge_count or 0,
        zero=ends.get(zero_edges, run_pb2.EDGE_COUNTS_END_REMOVE),
        all=ends.get(all_edges, run_pb2.EDGE_COUNTS_END_REMOVE),
    )
    whole: list[int] = []
    if isinstance(edge_counts, str):
        sizes.kind = enum_value(run_pb2.EdgeCountsKind, "EDGE_COUNTS_KIND_", edge_counts)
    else:
        for count in edge_counts or ():
            if isinstance(count, float):
                sizes.shares.append(count)
            else:
                whole.append(int(count))
    return whole, sizes if sizes.ByteSize() else None


def make_sweep(
    scores: Scores,
    *,
    dataset_id: str,
    edge_counts: SizesLike,
    patch_type: str | PatchType,
    ablation: Ablation,
    reverse_clean_corrupt: bool,
    signed_scores: bool = False,
    batch_size: int | None,
    prompt_count: int | None,
    tail_divergence: bool = False,
    true_edge_count: int | None = None,
    zero_edges: bool | None = None,
    all_edges: bool | None = None,
    fwd_hooks: FwdHooks = None,
) -> run_pb2.CircuitSweep:
    """The protocol's sweep."""
    whole, sizes = _sizes(edge_counts, true_edge_count, zero_edges, all_edges)
    return run_pb2.CircuitSweep(
        job_id=job_id_of(scores),
        dataset_id=dataset_id,
        edge_counts=whole,
        sizes=sizes,
        ablation_id=ablation_id(ablation),
        patch_type=enum_value(common_pb2.PatchType, "PATCH_TYPE_", patch_type),
        ablation_type=ablation_value(ablation),
        reverse_clean_corrupt=reverse_clean_corrupt,
        signed_scores=signed_scores,
        batch_size=batch_size or 0,
        prompt_count=prompt_count or 0,
        tail_divergence=tail_divergence,
        interventions=make_interventions(fwd_hooks),
    )


def metric_values(metrics: Sequence[str] | None) -> list[evaluate_pb2.Metric]:
    """The protocol's numbers for metrics by name."""
    return [enum_value(evaluate_pb2.Metric, "METRIC_", name) for name in metrics or ()]
