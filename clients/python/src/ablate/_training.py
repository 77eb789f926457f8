# SPDX-License-Identifier: Apache-2.0
"""Algorithms that train masks: subnetwork probing and circuit probing, and their curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Sequence, get_args

from ._enums import ablation_value, enum_value
from .v1 import common_pb2, prune_pb2

MaskFn = Literal["hard_concrete", "sigmoid"]
"""What masks go through, as in AutoCircuit; None: nothing."""


def mask_fn_value(name: MaskFn | None) -> common_pb2.MaskFunction:
    """The protocol's number for a mask function; None is none, not the default."""
    return enum_value(common_pb2.MaskFunction, "MASK_FUNCTION_", "none" if name is None else name)


def mask_fn_name(value: common_pb2.MaskFunction) -> MaskFn | None:
    """A mask function by name."""
    names: dict[int, MaskFn] = {mask_fn_value(name): name for name in get_args(MaskFn)}
    return names.get(value)


@dataclass(frozen=True)
class SubnetworkProbing:
    """AutoCircuit's ``subnetwork_probing_prune_scores``: masks trained by Adam, an optimizer step a
    batch, to keep ``faithfulness_target`` with as few edges as possible. Names and defaults are
    AutoCircuit's; ``init_val`` None is log(5). ``validation_prompt_count`` prompts after the first
    ``prompt_count`` take the place of its ``validation_dataloader``, and ``ablation`` None is its mean
    over the corrupt prompts by position. The curve comes with the job's events (``JobEvent.training``).
    """

    learning_rate: float = 0.1
    epochs: int = 20
    regularize_lambda: float = 10
    mask_fn: MaskFn | None = "hard_concrete"
    dropout_p: float = 0.0
    init_val: float | None = None
    circuit_size: int | None = None
    tree_optimisation: bool = False
    avoid_edges: Sequence[str] = field(default_factory=tuple)
    avoid_lambda: float = 1.0
    faithfulness_target: Literal[
        "kl_div", "mse", "answer", "wrong_answer", "correct_percent", "logit_diff_percent", "logit_diff"
    ] = "kl_div"
    """``"logit_diff"`` is for :class:`ablate.Knockouts`."""
    validation_prompt_count: int = 0
    seed: int = 0
    ablation: str | None = None

    def _fill(self, spec: prune_pb2.PruneJobSpec) -> None:
        self._write(spec.subnetwork_probing)

    def _write(self, out: prune_pb2.SubnetworkProbing) -> None:
        for name in ("learning_rate", "epochs", "avoid_lambda"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name} must be above 0")
        if self.circuit_size == 0:
            raise ValueError("circuit_size must be 1 or more, or None")
        out.learning_rate = self.learning_rate
        out.epochs = self.epochs
        out.regularize_lambda = self.regularize_lambda
        out.mask_function = mask_fn_value(self.mask_fn)
        out.dropout_p = self.dropout_p
        if self.init_val is not None:
            out.init_val = self.init_val
        out.circuit_size = self.circuit_size or 0
        out.tree_optimisation = self.tree_optimisation
        out.avoid_edges.extend(self.avoid_edges)
        out.avoid_lambda = self.avoid_lambda
        out.faithfulness_target = enum_value(
            prune_pb2.FaithfulnessTarget, "FAITHFULNESS_TARGET_", self.faithfulness_target
        )
        out.validation_prompt_count = self.validation_prompt_count
        out.seed = self.seed
        out.ablation_type = ablation_value(self.ablation)


@dataclass(frozen=True)
class CircuitProbing(SubnetworkProbing):
    """AutoCircuit's ``circuit_probing_prune_scores``: subnetwork probing once for each of
    ``circuit_sizes``. An edge scores by the smallest circuit that has it, k for the smallest of k to 1
    for the largest, 0 for none. ``init_val`` None is minus log(5), as AutoCircuit has it here.
    """

    circuit_sizes: Sequence[int] = field(default_factory=tuple)

    def _fill(self, spec: prune_pb2.PruneJobSpec) -> None:
        self._write(spec.circuit_probing.training)
        spec.circuit_probing.circuit_sizes.extend(self.circuit_sizes)


@dataclass(frozen=True)
class TrainingPoint:
    """An optimizer step of a training."""

    epoch: int
    batch: int
    circuit_size: int | None
    """The size that is trained for, if any."""
    loss: float
    """faithfulness + regularization"""
    faithfulness: float
    regularization: float
    """The regularizer's share of the loss, ``regularize_lambda`` included."""
    validation: float | None
    """After the step: percent of the clean answer difference that is kept on validation prompts."""
    validation_std: float | None
    zero_mask_score: float = 0.0
    """After the step: what an edge with a mask of 0 scores. With ``tree_optimisation`` a mask is this less
    its edge's score, without it the score less this; circuit probing's scores are no masks."""

    @classmethod
    def _from_proto(cls, proto: prune_pb2.TrainingPoint) -> "TrainingPoint":
        return cls(
            epoch=proto.epoch,
            batch=proto.batch,
            circuit_size=proto.circuit_size or None,
            loss=proto.loss,
            faithfulness=proto.faithfulness,
            regularization=proto.regularization,
            validation=proto.validation if proto.has_validation else None,
            validation_std=proto.validation_std if proto.has_validation else None,
            zero_mask_score=proto.zero_mask_score,
        )
