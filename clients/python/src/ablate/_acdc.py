# SPDX-License-Identifier: Apache-2.0
"""ACDC, and what a job says of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal, Sequence

from ._enums import ablation_value, enum_value
from .v1 import prune_pb2


@dataclass(frozen=True)
class ACDC:
    """AutoCircuit's ``acdc_prune_scores``: on the first batch, edges are removed one by one, as long as
    the output stays as it was within tau. An edge scores the smallest tau that removed it, ``inf`` where
    none did. Names and defaults are AutoCircuit's: the taus are ``a * 10**b`` for ``a`` in ``tao_bases``
    and ``b`` in ``tao_exps``. ``taus`` gives them one by one instead, ascending.

    ``faithfulness_target``: ``"kl_div"`` and ``"mse"`` compare with the clean run's logits,
    ``"answer_diff"`` with its answer difference. ``edges``: only these are decided, in this order, which
    must go down the layers of their destinations; None is all of them, in canonical order within a layer.
    """

    tao_exps: Sequence[int] = (-5, -4, -3, -2)
    tao_bases: Sequence[int] = (1, 3, 5, 7, 9)
    faithfulness_target: Literal["kl_div", "mse", "answer_diff"] = "kl_div"
    taus: Sequence[float] | None = None
    ablation: str = "resample"
    edges: Sequence[str] | None = None
    candidate_count_max: int = 0

    def _fill(self, spec: prune_pb2.PruneJobSpec) -> None:
        out = spec.acdc
        taus = self.taus
        if taus is None:
            taus = sorted({a * 10**b for a, b in product(self.tao_bases, self.tao_exps)})
        out.SetInParent()
        out.taus.extend(float(tau) for tau in taus)
        out.faithfulness_target = enum_value(
            prune_pb2.AcdcTarget, "ACDC_TARGET_", self.faithfulness_target
        )
        out.ablation_type = ablation_value(self.ablation)
        out.edges.extend(self.edges or ())
        out.candidate_count_max = self.candidate_count_max


@dataclass(frozen=True)
class AcdcTau:
    """One tau of an ACDC, as far as it is decided."""

    tau: float
    decided_edges: int
    removed_edges: int
    effect: float
    """Of all that is removed: the faithfulness target's value."""
    min_margin: float
    """The smallest distance of a decision from tau; about 1e-6 or less is rounding."""

    @classmethod
    def _from_proto(cls, proto: prune_pb2.AcdcTau) -> "AcdcTau":
        return cls(
            proto.tau, proto.decided_edges, proto.removed_edges, proto.effect, proto.min_margin
        )


@dataclass(frozen=True)
class AcdcDecision:
    """An edge that an ACDC has tried, at one tau."""

    edge: str
    seq_idx: int | None
    """Position in a token-specific graph; None without."""
    tau: float
    effect: float
    """The faithfulness target's value with this edge ablated beside those removed before it."""
    removed: bool
    """Whether it went; False: it stays."""

    @classmethod
    def _from_proto(cls, proto: prune_pb2.AcdcDecision) -> "AcdcDecision":
        position = proto.seq_number - 1 if proto.seq_number else None
        return cls(proto.edge, position, proto.tau, proto.effect, proto.removed)


def found(tau: AcdcTau, decisions: Sequence[AcdcDecision]) -> str:
    """A tau and the newest decision in a line: ``tau 0.01: 41 removed, effect 0.012, kept A1.0->MLP 1``."""
    line = f"tau {tau.tau:.3g}: {tau.removed_edges} removed, effect {tau.effect:.3g}"
    for last in decisions[-1:]:
        line += f", {'removed' if last.removed else 'kept'} {last.edge} at {last.effect:.3g}"
    return line
