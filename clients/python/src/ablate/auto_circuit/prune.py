# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.prune``."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Dict, List, Optional

from .data import PromptDataLoader
from .types import AblationType, CircuitOutputs, PatchType, PruneScores
from .utils.ablation_activations import src_ablations
from .utils.graph_utils import patch_mode
from .utils.patchable_model import PatchableModel


def run_circuits(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    test_edge_counts: List[int],
    prune_scores: PruneScores,
    patch_type: PatchType = PatchType.EDGE_PATCH,
    ablation_type: AblationType = AblationType.RESAMPLE,
    reverse_clean_corrupt: bool = False,
    render_graph: bool = False,
    render_score_threshold: bool = False,
    render_file_path: Optional[str] = None,
) -> CircuitOutputs:
    """Outputs of circuits of several sizes: edge count -> batch key -> logits at ``model.out_slice``.

    A circuit is the edges of largest |score|; with ties it is larger than asked, and its key is its
    real size. ``render_graph`` draws the last one. Masks are left as they are.
    """
    outputs: Dict[int, Dict[int, Any]] = defaultdict(dict)
    scores = model.graph.upload_scores(dict(prune_scores), origin="run_circuits", prepend_bos=False)
    if model._slice_output == "last_seq" and test_edge_counts:
        by_count = model.client.run_circuits(
            scores,
            list(test_edge_counts),
            dataset=dataloader.resident(model.client, bool(model.prefix)),
            patch_type=patch_type.name.lower(),
            ablation=ablation_type.name.lower(),
            reverse_clean_corrupt=reverse_clean_corrupt,
            batch_size=dataloader.batch_size,
        )
        for count, logits in by_count.items():
            for number, batch in enumerate(dataloader):
                begin = number * dataloader.batch_size
                outputs[count][batch.key] = logits[begin : begin + dataloader.batch_size]
    elif test_edge_counts:
        _by_passes(outputs, model, dataloader, test_edge_counts, scores, patch_type, ablation_type,
                   reverse_clean_corrupt)  # fmt: skip
    if render_graph and test_edge_counts:
        from .visualize import circuit_of, draw_seq_graph

        draw_seq_graph(
            model=model,
            prune_scores=circuit_of(prune_scores, test_edge_counts[-1]),
            score_threshold=render_score_threshold,
            seq_labels=dataloader.seq_labels,
            file_path=render_file_path,
        )
    return outputs


def _by_passes(
    outputs: Dict[int, Dict[int, Any]],
    model: PatchableModel,
    dataloader: PromptDataLoader,
    test_edge_counts: List[int],
    scores: Any,
    patch_type: PatchType,
    ablation_type: AblationType,
    reverse_clean_corrupt: bool,
) -> None:
    """The circuits one by one, for outputs that a sweep does not have: those at several positions."""
    tree = patch_type is PatchType.TREE_PATCH
    mean = src_ablations(model, dataloader, ablation_type) if ablation_type.mean_over_dataset else None
    before = model.graph.get_patch_mask()
    try:
        for batch in dataloader:
            clean, corrupt = batch.clean, batch.corrupt
            here, there = (clean, corrupt) if tree != reverse_clean_corrupt else (corrupt, clean)
            ablation = mean or src_ablations(model, there, ablation_type)
            with patch_mode(model, ablation):
                for edge_count in test_edge_counts:
                    masked = model.graph.set_circuit(
                        scores, edge_count=edge_count, patch_type=patch_type.name.lower()
                    )
                    count = model.n_edges - masked if tree else masked
                    outputs[count][batch.key] = model(here)[model.out_slice]
    finally:
        model.graph.set_patch_mask(before)
