# SPDX-License-Identifier: Apache-2.0
"""Prune algorithms with their options, and jobs' descriptions made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Literal, Sequence, Union

from ._ablation import AblationLike, ablation_id
from ._acdc import ACDC
from ._arrays import bos_policy
from ._enums import ablation_value, enum_value
from ._knockouts import Knockouts
from ._training import CircuitProbing, SubnetworkProbing
from .v1 import prune_pb2

Ablation = AblationLike
"""What ablated edges carry; AutoCircuit's names, upper case is accepted too, or a resident one."""


@dataclass(frozen=True)
class EdgeAttributionPatching:
    """Edge attribution patching (arXiv:2310.10348), with AutoCircuit's sign and scale."""

    ablation: Ablation = "resample"

    def _fill(self, spec: prune_pb2.PruneJobSpec) -> None:
        spec.eap.ablation_type = ablation_value(self.ablation)


@dataclass(frozen=True)
class MaskGradient:
    """AutoCircuit's ``mask_gradient_prune_scores``: d loss / d mask at ``mask_val``, or summed over
    k/N for k = 0..N with ``integrated_grad_samples`` = N. At most one of the two may be given.
    """

    grad_function: Literal["logit", "prob", "logprob", "logit_exp"] = "logit"
    answer_function: Literal["avg_diff", "avg_val", "mse"] = "avg_diff"
    mask_val: float | None = None
    integrated_grad_samples: int | None = None
    ablation: Ablation = "resample"
    clean_corrupt: Literal["clean", "corrupt"] = "corrupt"
    """Which prompts ablate; for means over the dataset the type says it."""

    def _fill(self, spec: prune_pb2.PruneJobSpec) -> None:
        if self.mask_val is not None and self.integrated_grad_samples is not None:
            raise ValueError("give mask_val or integrated_grad_samples, not both")
        out = spec.mask_gradient
        out.grad_function = enum_value(prune_pb2.GradFunction, "GRAD_FUNCTION_", self.grad_function)
        out.answer_function = enum_value(
            prune_pb2.AnswerFunction, "ANSWER_FUNCTION_", self.answer_function
        )
        if self.integrated_grad_samples is not None:
            out.integrated_grad_samples = self.integrated_grad_samples
        else:
            out.mask_value = self.mask_val or 0.0
        out.ablation_type = ablation_value(self.ablation)


@dataclass(frozen=True)
class GroundTruth:
    """Exact effects: the loss with only one edge ablated, minus the clean loss.

    ``edges``: only these are measured, the others score 0; None measures all.
    """

    ablation: Ablation = "resample"
    edges: Sequence[str] | None = None

    def _fill(self, spec: prune_pb2.PruneJobSpec) -> None:
        spec.ground_truth.ablation_type = ablation_value(self.ablation)
        spec.ground_truth.edges.extend(self.edges or ())


@dataclass(frozen=True)
class RandomScores:
    """Uniform in [0, 1), a baseline."""

    seed: int = 0

    def _fill(self, spec: prune_pb2.PruneJobSpec) -> None:
        spec.random.seed = self.seed


@dataclass(frozen=True)
class ActivationMagnitude:
    """AutoCircuit's ``activation_magnitude_prune_scores``: |mean of what an edge's source emits|. On
    weights processed with ``center_writing_weights`` all of them are rounding noise.
    """

    def _fill(self, spec: prune_pb2.PruneJobSpec) -> None:
        spec.activation_magnitude.SetInParent()


@dataclass(frozen=True)
class EAPIG:
    """Integrated gradients as the EAP-IG 2.0 repository has them (arXiv:2403.17806), in its scale: a
    mean over prompts and points.

    ``method``: ``"inputs"`` moves the input embedding from corrupt to clean in ``steps`` passes,
    ``"activations"`` one layer's outputs at a time, ``"clean_corrupted"`` takes both ends and no
    ``steps``. ``steps`` None: 5. ``ablation`` other than ``"resample"`` goes with ``"activations"`` only.
    """

    method: Literal["inputs", "activations", "clean_corrupted"] = "inputs"
    steps: int | None = None
    ablation: Ablation = "resample"
    grad_function: Literal["logit", "prob", "logprob", "logit_exp"] = "logit"
    answer_function: Literal["avg_diff", "avg_val", "mse"] = "avg_diff"

    def _fill(self, spec: prune_pb2.PruneJobSpec) -> None:
        out = spec.eap_ig
        if self.steps == 0:
            raise ValueError("steps must be 1 or more; None is the default, 5")
        out.method = enum_value(prune_pb2.EapIgMethod, "EAP_IG_METHOD_", self.method)
        out.steps = self.steps or 0
        out.ablation_type = ablation_value(self.ablation)
        out.grad_function = enum_value(prune_pb2.GradFunction, "GRAD_FUNCTION_", self.grad_function)
        out.answer_function = enum_value(
            prune_pb2.AnswerFunction, "ANSWER_FUNCTION_", self.answer_function
        )


Algorithm = Union[
    EdgeAttributionPatching,
    MaskGradient,
    GroundTruth,
    RandomScores,
    ActivationMagnitude,
    EAPIG,
    SubnetworkProbing,
    CircuitProbing,
    Knockouts,
    ACDC,
]
_BY_NAME: dict[str, Callable[[], Algorithm]] = {
    "eap": EdgeAttributionPatching,
    "mask_gradient": MaskGradient,
    "ground_truth": GroundTruth,
    "random": RandomScores,
    "activation_magnitude": ActivationMagnitude,
    "eap_ig": EAPIG,
    "subnetwork_probing": SubnetworkProbing,
    "circuit_probing": CircuitProbing,
    "acdc": ACDC,
}


def make_spec(
    graph_id: str,
    dataset_id: str,
    algo: str | Algorithm,
    *,
    batch_size: int | None,
    prompt_count: int | None,
    prepend_bos: bool | None,
    tail_divergence: bool = False,
    top_k: int,
) -> prune_pb2.PruneJobSpec:
    """A job's description. ValueError for an algorithm that does not exist."""
    if isinstance(algo, str):
        if algo not in _BY_NAME:
            raise ValueError(f"algo must be one of {', '.join(_BY_NAME)}, not {algo!r}")
        algo = _BY_NAME[algo]()
    spec = prune_pb2.PruneJobSpec(
        graph_id=graph_id,
        dataset_id=dataset_id,
        batch_size=batch_size or 0,
        prompt_count=prompt_count or 0,
        bos=bos_policy(prepend_bos),
        tail_divergence=tail_divergence,
        top_k=top_k,
    )
    algo._fill(spec)
    spec.ablation_id = ablation_id(getattr(algo, "ablation", None))
    spec.ablate_by_clean = getattr(algo, "clean_corrupt", None) == "clean"
    return spec
