# SPDX-License-Identifier: Apache-2.0
"""Trained masks."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import asdict
from typing import Literal, Optional, Set

from ..._training import SubnetworkProbing, TrainingPoint
from ..data import PromptDataLoader
from ..types import Edge, MaskFn, PruneScores
from ..utils.patchable_model import PatchableModel
from ._run import names, run

mask_p, left, right, temp = 0.9, -0.1, 1.1, 2 / 3
p = (mask_p - left) / (right - left)
init_mask_val = math.log(p / (1 - p))
regularize_const = temp * math.log(-left / right)
SP = "Subnetwork Probing"
SP_FAITHFULNESS_TARGET = Literal[
    "kl_div", "mse", "answer", "wrong_answer", "correct_percent", "logit_diff_percent"
]


def subnetwork_probing_prune_scores(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    official_edges: Optional[Set[Edge]],
    learning_rate: float = 0.1,
    epochs: int = 20,
    regularize_lambda: float = 10,
    mask_fn: MaskFn = "hard_concrete",
    dropout_p: float = 0.0,
    init_val: float = init_mask_val,
    show_train_graph: bool = False,
    circuit_size: Optional[int] = None,
    tree_optimisation: bool = False,
    avoid_edges: Optional[Set[Edge]] = None,
    avoid_lambda: float = 1.0,
    faithfulness_target: SP_FAITHFULNESS_TARGET = "kl_div",
    validation_dataloader: Optional[PromptDataLoader] = None,
) -> PruneScores:
    """As :class:`ablate.SubnetworkProbing`."""
    algo = SubnetworkProbing(
        learning_rate=learning_rate,
        epochs=epochs,
        regularize_lambda=regularize_lambda,
        mask_fn=mask_fn,
        dropout_p=dropout_p,
        init_val=init_val,
        circuit_size=circuit_size,
        tree_optimisation=tree_optimisation,
        avoid_edges=names(avoid_edges),
        avoid_lambda=avoid_lambda,
        faithfulness_target=faithfulness_target,
    )
    return train(model, dataloader, algo, validation_dataloader, show_train_graph)


def train(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    algo: SubnetworkProbing,
    validation_dataloader: Optional[PromptDataLoader],
    show_train_graph: bool,
) -> PruneScores:
    """Runs a training, its validation prompts behind the others in one dataset."""
    if validation_dataloader is None:
        scores = run(model, dataloader, algo)
    else:
        whole = bool(model.prefix)
        prompts, validation = dataloader.prompts(whole), validation_dataloader.prompts(whole)
        options = {**asdict(algo), "validation_prompt_count": len(validation)}
        scores = model.graph.prune_scores(
            json.dumps({"prompts": prompts + validation}),
            type(algo)(**options),
            batch_size=dataloader.batch_size,
            prompt_count=len(prompts),
            prepend_bos=False,
        )
    if show_train_graph:
        show_curve(scores.job.training_curve(), algo.faithfulness_target, "Subnetwork Probing")
    return scores


def show_curve(curve: list[TrainingPoint], faithfulness_target: str, title: str) -> None:
    """Draws a training's curve, where plotly is importable; a warning elsewhere."""
    try:
        from plotly import graph_objects as go
    except ModuleNotFoundError:
        warnings.warn("show_train_graph needs plotly: pip install plotly", stacklevel=3)
        return
    from ..visualize import show

    figure = go.Figure()
    lines = {"Loss": "loss", faithfulness_target: "faithfulness", "Regularization": "regularization"}
    for name, field in lines.items():
        figure.add_scatter(y=[getattr(point, field) for point in curve], name=name)
    steps = [i for i, point in enumerate(curve) if point.validation is not None]
    if steps:
        figure.add_scatter(x=steps, y=[curve[i].validation for i in steps], name="Validation")
    figure.update_layout(title=title, xaxis_title="Step")
    show(figure)
