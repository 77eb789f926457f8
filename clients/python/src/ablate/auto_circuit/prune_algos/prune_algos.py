# SPDX-License-Identifier: Apache-2.0
"""The registry of prune algorithms, with AutoCircuit's keys, names and options."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, List, Optional

from ..tasks import Task
from ..types import AlgoKey, PruneScores, TaskPruneScores
from .ACDC import acdc_prune_scores
from .activation_magnitude import activation_magnitude_prune_scores
from .circuit_probing import circuit_probing_prune_scores
from .edge_attribution_patching import edge_attribution_patching_prune_scores
from .ground_truth import ground_truth_prune_scores
from .mask_gradient import mask_gradient_prune_scores
from .random_edges import random_prune_scores
from .subnetwork_probing import subnetwork_probing_prune_scores


@dataclass(frozen=True, eq=False)
class PruneAlgo:
    """An algorithm: ``func(model, dataloader, official_edges)`` gives scores. Equal by ``key``."""

    key: AlgoKey
    name: str
    func: Callable[..., PruneScores]
    _short_name: Optional[str] = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PruneAlgo) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def short_name(self) -> str:
        """For legends; the name, if there is none."""
        return self.name if self._short_name is None else self._short_name


def run_prune_algos(tasks: List[Task], prune_algos: List[PruneAlgo]) -> TaskPruneScores:
    """The scores of every algorithm for every task: task key -> algorithm key -> scores."""
    return {
        task.key: {algo.key: algo.func(task.model, task.train_loader, task.true_edges) for algo in prune_algos}
        for task in tasks
    }


def _gradient(key: str, name: str, short: str, grad: str, answer: str, **options: Any) -> PruneAlgo:
    options = options or {"mask_val": 0.0}
    options |= {"grad_function": grad, "answer_function": answer}
    func = partial(mask_gradient_prune_scores, **options)
    return PruneAlgo(key, name, func, short)


def _probing(key: str, name: str, short: str, epochs: int, show: bool, **options: Any) -> PruneAlgo:
    is_circuit = "circuit_sizes" in options
    func = partial(
        circuit_probing_prune_scores if is_circuit else subnetwork_probing_prune_scores,
        learning_rate=0.1,
        epochs=epochs,
        regularize_lambda=0.1 if is_circuit else 0.5,
        mask_fn="hard_concrete",
        show_train_graph=show,
        **options,
    )
    return PruneAlgo(key, name, func, short)


GROUND_TRUTH_PRUNE_ALGO = PruneAlgo("Official Circuit", "Ground Truth", ground_truth_prune_scores, "GT")
ACT_MAG_PRUNE_ALGO = PruneAlgo(
    "Act Mag", "Activation Magnitude", activation_magnitude_prune_scores, "Act Mag"
)
RANDOM_PRUNE_ALGO = PruneAlgo("Random", "Random", random_prune_scores)
EDGE_ATTR_PATCH_PRUNE_ALGO = PruneAlgo(
    "Edge Attribution Patching", "Edge Attribution Patching", edge_attribution_patching_prune_scores, "EAP"
)
ACDC_PRUNE_ALGO = PruneAlgo(
    "ACDC", "ACDC", partial(acdc_prune_scores, tao_exps=list(range(-6, -2)), tao_bases=[1])
)
MSE_ACDC_PRUNE_ALGO = PruneAlgo(
    "MSE ACDC",
    "MSE ACDC",
    partial(acdc_prune_scores, tao_bases=[1], tao_exps=list(range(-10, 0)), faithfulness_target="mse"),
    "ACDC (MSE)",
)
INTEGRATED_EDGE_GRADS_PRUNE_ALGO = _gradient(
    "Integrated Edge Gradients (Logit Grad)", "Integrated Edge Gradients (Logit Grad)",
    "IEG (Answer Logit)", "logit", "avg_val", integrated_grad_samples=50,
)  # fmt: skip
INTEGRATED_EDGE_GRADS_LOGIT_DIFF_PRUNE_ALGO = _gradient(
    "Integrated Edge Gradients (Logit Diff)", "Integrated Edge Gradients", "IEG", "logit", "avg_diff",
    integrated_grad_samples=1000,
)  # fmt: skip
PROB_GRAD_PRUNE_ALGO = _gradient(
    "Edge Answer Prob Gradient At Clean", "Prob Gradient", "EAP (Prob)", "prob", "avg_val"
)
LOGIT_EXP_GRAD_PRUNE_ALGO = _gradient(
    "Edge Answer Logit Exp Gradient At Clean", "Exp Logit Gradient", "EAP (Answer Logit)", "logit_exp", "avg_val"
)
LOGPROB_GRAD_PRUNE_ALGO = _gradient(
    "Edge Answer Log Prob Gradient At Clean", "Logprob Gradient", "EAP (Answer Logprob)", "logprob", "avg_val"
)
LOGPROB_DIFF_GRAD_PRUNE_ALGO = _gradient(
    "Edge Answer Log Prob Diff Gradient At Clean", "Logprob Diff Gradient", "EAP (Logprob Diff)",
    "logprob", "avg_diff",
)  # fmt: skip
LOGIT_DIFF_GRAD_PRUNE_ALGO = _gradient(
    "Edge Answer Logit Diff Gradient At Clean", "Edge Attribution Patching", "EAP", "logit", "avg_diff"
)
LOGIT_MSE_GRAD_PRUNE_ALGO = _gradient(
    "Edge Answer Logit MSE Gradient At Clean", "Edge Attribution Patching (MSE)", "EAP (MSE)", "logit", "mse"
)
SUBNETWORK_EDGE_PROBING_PRUNE_ALGO = _probing(
    "Subnetwork Edge Probing", "Subnetwork Edge Probing", "SEP", 200, True
)
CIRCUIT_PROBING_PRUNE_ALGO = _probing(
    "Circuit Probing", "Circuit Probing", "CP", 2000, True, circuit_sizes=["true_size", 1000]
)
SUBNETWORK_TREE_PROBING_PRUNE_ALGO = _probing(
    "Subnetwork Tree Probing", "Subnetwork Tree Probing", "STP", 2000, False, tree_optimisation=True
)
CIRCUIT_TREE_PROBING_PRUNE_ALGO = _probing(
    "Tree Probing", "Tree Probing", "TP", 200, False,
    circuit_sizes=[100, "true_size", 1000, 10000], tree_optimisation=True,
)  # fmt: skip
MSE_SUBNETWORK_TREE_PROBING_PRUNE_ALGO = _probing(
    "MSE Subnetwork Tree Probing", "MSE Subnetwork Tree Probing", "STP (MSE)", 200, True,
    faithfulness_target="mse", tree_optimisation=True,
)  # fmt: skip
MSE_CIRCUIT_TREE_PROBING_PRUNE_ALGO = _probing(
    "MSE Tree Probing", "MSE Tree Probing", "TP (MSE)", 200, True,
    circuit_sizes=["true_size"], tree_optimisation=True, faithfulness_target="mse",
)  # fmt: skip
OPPOSITE_TREE_PROBING_PRUNE_ALGO = _probing(
    "Opposite Tree Probing", "Opposite Tree Probing", "OTP", 100, True,
    circuit_sizes=["true_size", 1000, 10000], tree_optimisation=True, faithfulness_target="wrong_answer",
)  # fmt: skip

PRUNE_ALGOS: List[PruneAlgo] = [
    GROUND_TRUTH_PRUNE_ALGO,
    ACT_MAG_PRUNE_ALGO,
    RANDOM_PRUNE_ALGO,
    EDGE_ATTR_PATCH_PRUNE_ALGO,
    ACDC_PRUNE_ALGO,
    MSE_ACDC_PRUNE_ALGO,
    INTEGRATED_EDGE_GRADS_LOGIT_DIFF_PRUNE_ALGO,
    LOGPROB_GRAD_PRUNE_ALGO,
    LOGPROB_DIFF_GRAD_PRUNE_ALGO,
    LOGIT_DIFF_GRAD_PRUNE_ALGO,
    LOGIT_MSE_GRAD_PRUNE_ALGO,
    SUBNETWORK_EDGE_PROBING_PRUNE_ALGO,
    CIRCUIT_PROBING_PRUNE_ALGO,
    SUBNETWORK_TREE_PROBING_PRUNE_ALGO,
    CIRCUIT_TREE_PROBING_PRUNE_ALGO,
    MSE_SUBNETWORK_TREE_PROBING_PRUNE_ALGO,
    MSE_CIRCUIT_TREE_PROBING_PRUNE_ALGO,
    OPPOSITE_TREE_PROBING_PRUNE_ALGO,
]
PRUNE_ALGO_DICT: Dict[AlgoKey, PruneAlgo] = {algo.key: algo for algo in PRUNE_ALGOS}
