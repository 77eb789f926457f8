# SPDX-License-Identifier: Apache-2.0
"""What is measured of circuits and scores: curves with their areas, completeness, ROC, similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

from .v1 import evaluate_pb2

MIB_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Circuit sizes of the MIB benchmark as shares of all edges; CPR and CMD need size 0, too."""


def metric_name(metric: int) -> str:
    """``METRIC_KL_DIV`` as ``"kl_div"``."""
    return evaluate_pb2.Metric.Name(metric).removeprefix("METRIC_").lower()


@dataclass(frozen=True)
class Areas:
    """One number for a metric's curve, in several ways; NaN where the sweep lacks sizes (0, all)."""

    auc: float
    """AutoCircuit's ``measurements_auc`` on the metric's own axes, at least 0.001."""
    auc_linear: float
    """The same on linear axes."""
    trapezoid: float
    """The plain area under the curve."""
    cpr: float
    """MIB's circuit performance ratio; MIB ranks by the scores themselves (``signed_scores=True``)."""
    cmd: float
    """MIB's circuit-model distance; MIB ranks by |score| here."""


class Evaluation(list[dict[str, float]]):
    """A row a circuit, smallest first, ready for a data frame."""

    def __init__(self) -> None:
        super().__init__()
        self.stds: list[dict[str, float]] = []
        """Sample standard deviations over prompts, row by row; 0 for ratios of means."""
        self.areas: dict[str, Areas] = {}
        """By metric: the areas under its curve."""

    def _add(self, message: evaluate_pb2.EvaluateCircuitsResponse) -> None:
        row: dict[str, float] = {"edge_count": message.edge_count}
        std: dict[str, float] = {"edge_count": message.edge_count}
        for value in message.values:
            row[metric_name(value.metric)] = value.value
            std[metric_name(value.metric)] = value.std
        self.append(row)
        self.stds.append(std)
        for area in message.areas:
            self.areas[metric_name(area.metric)] = Areas(
                area.auc, area.auc_linear, area.trapezoid, area.cpr, area.cmd
            )

    def _repr_html_(self) -> str:
        from ._html import evaluation

        return evaluation(self)


@dataclass(frozen=True)
class Completeness:
    """A circuit and the model, with and without knockouts (arXiv:2211.00593)."""

    edge_count: int
    knockout_count: int
    """Edges of the circuit that are knocked out."""
    kl_div: float
    """KL(model || circuit)."""
    knockout_kl_div: float
    """The same, without those edges in both."""


@dataclass(frozen=True)
class Roc:
    """How well scores find a reference circuit."""

    points: list[tuple[float, float]]
    """(false positive rate, true positive rate): (0, 0), one a size, (1, 1)."""
    area: float
    """Of the whole curve, through every threshold; chance is 0.5."""
    reference_edge_count: int


@dataclass(frozen=True)
class Overlap:
    """The circuits of one size that two sets of scores make."""

    edge_count: int
    first_count: int
    second_count: int
    common_count: int
    similarity: float
    """AutoCircuit's ``prune_score_similarities``: NaN when ties make either larger."""
    jaccard: float


@dataclass(frozen=True)
class Comparison:
    """How far two sets of scores agree."""

    overlaps: list[Overlap]
    spearman: float
    """Rank correlation of |score|."""
    pearson: float
    """Correlation of the scores, signs included."""

    @classmethod
    def _from_proto(cls, proto: evaluate_pb2.CompareScoresResponse) -> "Comparison":
        names = [field.name for field in evaluate_pb2.CircuitOverlap.DESCRIPTOR.fields]
        overlaps = [Overlap(**{name: getattr(o, name) for name in names}) for o in proto.overlaps]
        return cls(overlaps, proto.spearman, proto.pearson)

    def _repr_html_(self) -> str:
        from ._html import comparison

        return comparison(self)


def roc_request(
    job_id: str,
    reference: Any,
    reference_job_id: str | None,
    reference_edge_count: int | None,
    edge_counts: Sequence[int] | None,
) -> evaluate_pb2.MeasureRocRequest:
    """The protocol's request: the reference as names of edges, or another job's circuit."""
    request = evaluate_pb2.MeasureRocRequest(job_id=job_id, edge_counts=edge_counts or ())
    if reference_job_id is not None:
        request.reference_job_id = reference_job_id
        request.reference_edge_count = reference_edge_count or 0
    else:
        request.edges.names.extend(edge if isinstance(edge, str) else edge.name for edge in reference)
    return request
