# SPDX-License-Identifier: Apache-2.0
"""Knockouts that are trained, of a circuit that a job found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ._jobs import Scores, job_id_of
from ._training import MaskFn, SubnetworkProbing
from .v1 import prune_pb2


@dataclass(frozen=True)
class Knockouts:
    """AutoCircuit's ``train_same_under_knockout_prune_scores``: which edges of a circuit to ablate so that
    circuit and whole model, both without them, differ most. ``circuit`` is scores of the same edges, of
    which the ``edge_count`` of largest size, or those of ``threshold`` or more, are the circuit.

    Scores are the masks: edges at 0 or above are knocked out, as :meth:`Client.completeness` takes them,
    and those outside the circuit have -99. ``knockout_count`` edges cost nothing; None: a fifth of the
    circuit's. ``init_val`` None: every mask starts at -log(5), else at minus this.
    """

    circuit: Scores
    edge_count: int | None = None
    threshold: float | None = None
    learning_rate: float = 0.1
    epochs: int = 20
    regularize_lambda: float = 10
    mask_fn: MaskFn | None = "hard_concrete"
    faithfulness_target: Literal["kl_div", "logit_diff"] = "kl_div"
    knockout_count: int | None = None
    init_val: float | None = None
    seed: int = 0
    ablation: str | None = None
    """None: ``"resample"``."""

    def _fill(self, spec: prune_pb2.PruneJobSpec) -> None:
        if (self.edge_count is None) == (self.threshold is None):
            raise ValueError("give edge_count or threshold")
        SubnetworkProbing(
            learning_rate=self.learning_rate,
            epochs=self.epochs,
            regularize_lambda=self.regularize_lambda,
            mask_fn=self.mask_fn,
            init_val=self.init_val,
            circuit_size=self.knockout_count,
            faithfulness_target=self.faithfulness_target,
            seed=self.seed,
            ablation=self.ablation,
        )._fill(spec)
        circuit = spec.subnetwork_probing.knockouts_of
        circuit.job_id = job_id_of(self.circuit)
        if self.edge_count is not None:
            circuit.edge_count = self.edge_count
        elif self.threshold is not None:
            circuit.threshold = float(self.threshold)
