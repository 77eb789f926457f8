# SPDX-License-Identifier: Apache-2.0
"""What AutoCircuit's documentation begins with, as a user's script: only the imports begin with `ablate.`.
test_auto_circuit.py runs it where `datasets/ioi.json` is, and reads the file that it writes.
"""

import json

from ablate.auto_circuit.data import load_datasets_from_json
from ablate.auto_circuit.experiment_utils import load_tl_model
from ablate.auto_circuit.metrics.prune_metrics.kl_div import measure_kl_div
from ablate.auto_circuit.metrics.prune_scores_similarity import prune_score_similarities
from ablate.auto_circuit.prune import run_circuits
from ablate.auto_circuit.prune_algos.prune_algos import (
    ACDC_PRUNE_ALGO,
    EDGE_ATTR_PATCH_PRUNE_ALGO,
    LOGIT_DIFF_GRAD_PRUNE_ALGO,
    RANDOM_PRUNE_ALGO,
)
from ablate.auto_circuit.types import AblationType, PatchType
from ablate.auto_circuit.utils.ablation_activations import src_ablations
from ablate.auto_circuit.utils.graph_utils import edge_counts_util, patch_mode, patchable_model
from ablate.auto_circuit.utils.misc import repo_path_to_abs_path
from ablate.auto_circuit.visualize import draw_seq_graph

device = "cpu"
model = load_tl_model("tiny-ioi", device)
train_loader, test_loader = load_datasets_from_json(
    model=model,
    path=repo_path_to_abs_path("datasets/ioi.json"),
    device=device,
    prepend_bos=True,
    batch_size=4,
    train_test_size=(8, 8),
    shuffle=False,
)
model = patchable_model(model, factorized=True, slice_output="last_seq", separate_qkv=True, device=device)

ablations = src_ablations(model, test_loader, AblationType.TOKENWISE_MEAN_CORRUPT)
with patch_mode(model, ablations, ["Resid Start->MLP 1", "MLP 1->MLP 2", "MLP 2->A3.2.Q", "A3.2->Resid End"]):
    for batch in test_loader:
        patched_out = model(batch.clean)[model.out_slice]
masked = model.current_patch_masks_as_prune_scores()

algos = [LOGIT_DIFF_GRAD_PRUNE_ALGO, EDGE_ATTR_PATCH_PRUNE_ALGO, ACDC_PRUNE_ALGO, RANDOM_PRUNE_ALGO]
prune_scores = {algo.key: algo.func(model, train_loader, None) for algo in algos}
kl = {}
for key, scores in prune_scores.items():
    counts = edge_counts_util(model.edges, prune_scores=scores)
    circuit_outs = run_circuits(model, test_loader, counts, scores, PatchType.TREE_PATCH, AblationType.RESAMPLE)
    kl[key] = measure_kl_div(model, test_loader, circuit_outs)

result = {
    "patched": list(patched_out.shape),
    "masked": sum(float(values.sum()) for values in masked.values()),
    "kl": kl,
    "similarity": prune_score_similarities(prune_scores, [100])[100],
}
repo_path_to_abs_path("result.json").write_text(json.dumps(result))
draw_seq_graph(model, prune_scores[LOGIT_DIFF_GRAD_PRUNE_ALGO.key], score_threshold=1.0, file_path="circuit.html")
