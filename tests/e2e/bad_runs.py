# SPDX-License-Identifier: Apache-2.0
"""As bad_input.py: passes, jobs, sweeps and pages that lack a part, contradict themselves or come too early."""

from __future__ import annotations

from typing import Any, Callable

import ablate
import numpy as np
from ablate.v1 import common_pb2, evaluate_pb2, mask_pb2, prune_pb2, run_pb2

TOKENS = [[1, 2, 3]]
ZERO = common_pb2.ABLATION_TYPE_ZERO


def prompts_of(ids: Any) -> common_pb2.Prompts:
    array = np.asarray(ids, "<i4")
    tensor = common_pb2.Tensor(dtype=common_pb2.DTYPE_INT32, shape=array.shape, data=array.tobytes())
    return common_pb2.Prompts(tokens=tensor)


def forward(w: Any, **fields: Any) -> Any:
    return w.client._call("Forward", run_pb2.ForwardRequest(prompts=prompts_of(TOKENS), **fields))


def job_of(w: Any) -> ablate.Job:
    return w.graph.prune_scores(w.dataset, "random", progress=False).job


def circuit_of(w: Any, **fields: Any) -> mask_pb2.CircuitMask:
    return mask_pb2.CircuitMask(**{"job_id": job_of(w).id} | fields)


def knockouts(w: Any, **fields: Any) -> Any:
    return w.submit(subnetwork_probing=prune_pb2.SubnetworkProbing(knockouts_of=circuit_of(w, **fields)))


def while_it_runs(w: Any, use: Callable[[ablate.Job], Any]) -> Any:
    """Uses a job that will not end by itself while it is used."""
    job = w.graph.submit(w.dataset, ablate.MaskGradient(integrated_grad_samples=1000), batch_size=1)
    try:
        return use(job)
    finally:
        job.cancel()
        for _ in job.watch():
            pass


def of_another_model(w: Any) -> Any:
    def run(other: ablate.Model) -> Any:
        kept = other.create_ablation(TOKENS, "tokenwise_mean_clean", progress=False)
        try:
            return w.graph(TOKENS, ablation=kept)
        finally:
            kept.delete()

    return w.variant(run)


def with_two_answers(w: Any) -> Any:
    prompt = {"clean": "When Mary", "corrupt": "When John", "answers": [" to", " and"], "wrong_answers": [" a"]}
    dataset = w.client.upload_dataset({"prompts": [prompt]})
    try:
        return w.graph.prune_scores(dataset, ablate.MaskGradient(answer_function="mse"), progress=False)
    finally:
        dataset.delete()


def rows_as_scores(w: Any) -> Any:
    with w.graph.set_mask_batch_size(3):
        return w.graph.current_patch_masks_as_prune_scores()


def watch(w: Any, after: int) -> Any:
    request = prune_pb2.WatchJobRequest(job_id=job_of(w).id, after_sequence=after, with_scores=True)
    return list(w.client._call("WatchJob", request))


def completeness(w: Any, **fields: Any) -> Any:
    job = job_of(w)
    sweep = run_pb2.CircuitSweep(job_id=job.id, edge_counts=[5], **fields)
    request = evaluate_pb2.MeasureCompletenessRequest(sweep=sweep, knockout_job_id=job.id)
    return list(w.client._call("MeasureCompleteness", request))


CASES: list[tuple[str, Callable[[Any], Any], str, str]] = [
    ("a pass of nothing", forward, "INVALID_ARGUMENT", "TARGET_MISSING"),
    ("a cached pass of nothing", lambda w: list(w.client._call("RunWithCache", run_pb2.RunWithCacheRequest())),
     "INVALID_ARGUMENT", "FORWARD_MISSING"),
    ("more hook points than there are", lambda w: w.model.run_with_cache(TOKENS, ["hook_embed"] * 100_000),
     "RESOURCE_EXHAUSTED", "TOO_MANY_NAMES"),
    ("an ablation of a model without a graph", lambda w: forward(
        w, model_id=w.model.id, ablation=run_pb2.Ablation(type=ZERO)), "INVALID_ARGUMENT", "ABLATION_NEEDS_GRAPH"),
    ("zeros of prompts", lambda w: forward(
        w, graph_id=w.graph.id, ablation=run_pb2.Ablation(type=ZERO, prompts=prompts_of(TOKENS))),
     "INVALID_ARGUMENT", "ABLATION_PROMPTS"),
    ("an ablation of another variant of the model", of_another_model, "INVALID_ARGUMENT", "ABLATION_MODEL_MISMATCH"),
    ("scores of a mask with rows", rows_as_scores, "FAILED_PRECONDITION", "MASK_BATCH"),
    ("mean squares to several answers", with_two_answers, "INVALID_ARGUMENT", "ANSWER_COUNT_INVALID"),
    ("a sweep over a job that runs", lambda w: while_it_runs(
        w, lambda job: w.client.evaluate(job, [5], progress=False)), "FAILED_PRECONDITION", "SCORES_NOT_READY"),
    ("no sweep", lambda w: list(w.client._call("EvaluateCircuits", evaluate_pb2.EvaluateCircuitsRequest())),
     "INVALID_ARGUMENT", "SWEEP_MISSING"),
    ("a sweep of no job", lambda w: list(w.client._call(
        "EvaluateCircuits", evaluate_pb2.EvaluateCircuitsRequest(sweep=run_pb2.CircuitSweep()))),
     "INVALID_ARGUMENT", "JOB_MISSING"),
    ("a sweep in batches of -1", lambda w: w.sweep(edge_counts=[1], batch_size=-1),
     "INVALID_ARGUMENT", "BATCH_SIZE_INVALID"),
    ("a sweep in batches over the limit", lambda w: w.sweep(edge_counts=[1], batch_size=10**6),
     "RESOURCE_EXHAUSTED|INVALID_ARGUMENT", "BATCH_TOO_BIG|BATCH_SIZE_INVALID"),
    ("a metric that is no number of one", lambda w: list(w.client._call(
        "EvaluateCircuits", evaluate_pb2.EvaluateCircuitsRequest(
            sweep=run_pb2.CircuitSweep(job_id=job_of(w).id), metrics=[evaluate_pb2.METRIC_UNSPECIFIED]))),
     "INVALID_ARGUMENT", "METRIC_UNKNOWN"),
    ("completeness of patched edges", lambda w: completeness(w, patch_type=common_pb2.PATCH_TYPE_EDGE_PATCH),
     "INVALID_ARGUMENT", "PATCH_TYPE_INVALID"),
    ("knockouts without a size", lambda w: knockouts(w), "INVALID_ARGUMENT", "CIRCUIT_SIZE_INVALID"),
    ("knockouts of more edges than there are", lambda w: knockouts(w, edge_count=1 << 40),
     "INVALID_ARGUMENT", "CIRCUIT_SIZE_INVALID"),
    ("knockouts of no job", lambda w: knockouts(w, job_id="job-no", edge_count=9), "NOT_FOUND", "JOB_UNKNOWN"),
    ("knockouts with a patch type", lambda w: knockouts(w, edge_count=9, patch_type=1),
     "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("knockouts that grow a tree", lambda w: w.submit(subnetwork_probing=prune_pb2.SubnetworkProbing(
        tree_optimisation=True, knockouts_of=circuit_of(w, edge_count=9))), "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("knockouts in circuit probing", lambda w: w.submit(circuit_probing=prune_pb2.CircuitProbing(
        circuit_sizes=[5], training=prune_pb2.SubnetworkProbing(knockouts_of=circuit_of(w, edge_count=9)))),
     "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("events that are yet to come", lambda w: watch(w, 10**6), "OUT_OF_RANGE", "SEQUENCE_OUT_OF_RANGE"),
    ("events before the first", lambda w: watch(w, -1), "OUT_OF_RANGE", "SEQUENCE_OUT_OF_RANGE"),
    ("a stream with a negative grace", lambda w: list(w.client._call(
        "StreamPruneScores", prune_pb2.StreamPruneScoresRequest(grace_ms=-1))), "INVALID_ARGUMENT", ""),
    ("a page of -1", lambda w: w.client._call("ListJobs", prune_pb2.ListJobsRequest(page_size=-1)),
     "INVALID_ARGUMENT", "PAGE_SIZE_INVALID"),
    ("a page that was never begun", lambda w: w.client._call("ListJobs", prune_pb2.ListJobsRequest(page_token="x")),
     "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID"),
    ("a gradient of nothing", lambda w: list(w.client._call("MaskBackward", mask_pb2.MaskBackwardRequest())),
     "INVALID_ARGUMENT", ""),
]  # fmt: skip
