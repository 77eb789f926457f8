# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.experiment_utils``."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, Optional, Tuple

from .._arrays import Array
from .._model import Model
from ._session import client, on_daemon
from .data import load_datasets_from_json
from .metrics.official_circuits.circuits.ioi_official import (
    ioi_head_based_official_edges,
    ioi_true_edges,
    ioi_true_edges_mlp_0_only,
)
from .metrics.prune_metrics.answer_diff_percent import answer_diff_percent
from .prune import run_circuits
from .prune_algos.circuit_probing import circuit_probing_prune_scores
from .prune_algos.subnetwork_probing import SP_FAITHFULNESS_TARGET
from .types import AblationType, PatchType, PruneScores
from .utils.graph_utils import patchable_model
from .utils.misc import repo_path_to_abs_path


def load_tl_model(name: str, device: Any) -> Model:
    """A model by name on the daemon of :func:`ablate.auto_circuit.client`, with AutoCircuit's weight
    processing; one that is resident already is returned at once. ``device``: where AutoCircuit would
    have it; the daemon has its own.

    Raises what :meth:`ablate.Client.load_model` raises.
    """
    return client().load_model(name, "tl")


class IOI_CIRCUIT_TYPE(Enum):
    """What of the IOI circuit is kept."""

    NODES = 1
    """Its heads."""
    EDGES = 2
    """Its edges, MLPs between heads included."""
    EDGES_MLP_0_ONLY = 3
    """Its edges, of MLPs those of MLP 0 alone."""

    def __str__(self) -> str:
        return self.name.title()


_EDGES_OF = {
    IOI_CIRCUIT_TYPE.NODES: ioi_head_based_official_edges,
    IOI_CIRCUIT_TYPE.EDGES: ioi_true_edges,
    IOI_CIRCUIT_TYPE.EDGES_MLP_0_ONLY: ioi_true_edges_mlp_0_only,
}


def ioi_circuit_single_template_logit_diff_percent(
    gpt2: Any,
    dataset_size: int,
    prepend_bos: bool,
    template: Literal["ABBA", "BABA"],
    template_idx: int,
    factorized: bool = False,
    circuit: IOI_CIRCUIT_TYPE = IOI_CIRCUIT_TYPE.NODES,
    ablation_type: AblationType = AblationType.TOKENWISE_MEAN_CORRUPT,
    tok_pos: bool = True,
    patch_type: PatchType = PatchType.TREE_PATCH,
    learned: bool = False,
    learned_faithfulness_target: SP_FAITHFULNESS_TARGET = "logit_diff_percent",
    diff_of_mean_logit_diff: bool = False,
    batch_size: Optional[int] = None,
) -> Tuple[int, float, float, Array, PruneScores]:
    """How much of GPT-2 small's logit difference the IOI circuit recovers on one template: ``(edges,
    mean in percent, its standard deviation, each prompt's ``[prompts]``, the circuit as scores)``.

    The prompts are ``datasets/ioi/ioi_<template>_template_<template_idx>_prompts.json`` below the working
    directory, a file of AutoCircuit's repository. ``learned``: a trained circuit of the same size instead.

    Raises FileNotFoundError without that file, and what the IOI circuit and the pass raise.
    """
    path = repo_path_to_abs_path(f"datasets/ioi/ioi_{template}_template_{template_idx}_prompts.json")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; it is a file of AutoCircuit's repository: run where that is")
    below = on_daemon(gpt2)
    train_loader, test_loader = load_datasets_from_json(
        below,
        path,
        None,
        prepend_bos=prepend_bos,
        batch_size=dataset_size if batch_size is None else batch_size,
        train_test_size=(8 * dataset_size if learned else 0, dataset_size),
        shuffle=False,
        return_seq_length=tok_pos,
    )
    model = patchable_model(
        below, factorized, "last_seq", seq_len=test_loader.seq_len if tok_pos else None, separate_qkv=True
    )
    try:
        official = _EDGES_OF[circuit](model, tok_pos, test_loader.word_idxs or {}, test_loader.diverge_idx)
        scores: PruneScores
        if learned:
            scores = circuit_probing_prune_scores(
                model, train_loader, official, 0.1, 200, 0.1, "hard_concrete", show_train_graph=True,
                circuit_sizes=["true_size"], tree_optimisation=True,
                faithfulness_target=learned_faithfulness_target, validation_dataloader=test_loader,
            )  # fmt: skip
        else:
            scores = model.circuit_prune_scores(official)
        outputs = run_circuits(model, test_loader, [len(official)], scores, patch_type, ablation_type)
        means, deviations, each = answer_diff_percent(
            model, test_loader, outputs, prob_func="logits", diff_of_means=diff_of_mean_logit_diff
        )
        return int(means[0][0]), float(means[0][1]), float(deviations[0][1]), each[0][1], dict(scores)
    finally:
        model.graph.delete()
