# SPDX-License-Identifier: Apache-2.0
"""One line for each request that must be refused: what it is, the call, its code, its reason, and words of its
message where they are promised."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Callable

import ablate
import numpy as np
from ablate.v1 import cache_pb2, common_pb2, evaluate_pb2, graph_pb2, hooks_pb2, mask_pb2, model_pb2, prune_pb2, run_pb2

NAN, INF = float("nan"), float("inf")


@dataclass
class World:
    """What a bad request is made of."""

    client: ablate.Client
    model: ablate.Model
    graph: ablate.Graph
    dataset: ablate.Dataset
    limits: Any

    def tokens(self, batch: int, seq: int) -> np.ndarray:
        return np.zeros((batch, seq), np.int32)

    def forward(self, tensor: common_pb2.Tensor, **fields: Any) -> Any:
        request = run_pb2.ForwardRequest(
            model_id=self.model.id, prompts=common_pb2.Prompts(tokens=tensor), **fields
        )
        return self.client._call("Forward", request)

    def mask(self, name: str, tensor: common_pb2.Tensor) -> Any:
        modules = mask_pb2.ModuleMask(tensors=[mask_pb2.NamedTensor(name=name, tensor=tensor)])
        request = mask_pb2.SetPatchMaskRequest(graph_id=self.graph.id, modules=modules)
        return self.client._call("SetPatchMask", request)

    def hook(self, intervention: hooks_pb2.Intervention) -> Any:
        request = run_pb2.AddHookRequest(graph_id=self.graph.id, intervention=intervention)
        return self.client._call("AddHook", request)

    def hooked(self, name: str, spec: dict) -> Any:
        """A pass of one prompt of three tokens."""
        return self.model.run_with_hooks([[1, 2, 3]], [(name, spec)])

    def kept(self, use: Callable[[ablate.Activations], Any], tokens: Any = ((1, 2, 3),)) -> Any:
        """Activations at Z0 for as long as they are used."""
        _, kept = self.model.run_with_cache(tokens, Z0, keep_on_server=True)
        with kept:
            return use(kept)

    def variant(self, use: Callable[[ablate.Model], Any]) -> Any:
        """The same model with other weights, for as long as it is used."""
        other = self.client.load_model("tiny-ioi", dtype="bfloat16", progress=False)
        try:
            return use(other)
        finally:
            other.unload()

    def submit(self, **fields: Any) -> Any:
        spec = {"graph_id": self.graph.id, "dataset_id": self.dataset.id} | fields
        algorithms = {field.name for field in prune_pb2.PruneJobSpec.DESCRIPTOR.oneofs_by_name["algorithm"].fields}
        if not algorithms & set(spec):
            spec["eap"] = prune_pb2.EdgeAttributionPatching()
        request = prune_pb2.SubmitJobRequest(spec=prune_pb2.PruneJobSpec(**spec))
        return self.client._call("SubmitJob", request)

    def sweep(self, **fields: Any) -> Any:
        sweep = run_pb2.CircuitSweep(job_id=_job(self).id, **fields)
        request = evaluate_pb2.EvaluateCircuitsRequest(sweep=sweep)
        return list(self.client._call("EvaluateCircuits", request))

    def create(self, **fields: Any) -> Any:
        request = cache_pb2.CreateAblationRequest(**{"model_id": self.model.id} | fields)
        return list(self.client._call("CreateAblation", request))

    def ablation(self, source: Any, kind: str, **options: Any) -> Any:
        return self.model.create_ablation(source, kind, progress=False, **options)

    def ablating(self, source: Any, use: Callable, kind: str = "tokenwise_mean_clean", **options: Any) -> Any:
        """Uses an ablation that is there for this call only."""
        ablation = self.ablation(source, kind, **options)
        try:
            return use(ablation)
        finally:
            ablation.delete()

    def run(self, prompts: Any) -> Any:
        """Uploads prompts and runs a job over them: what only a tokenizer can tell is told by then."""
        dataset = self.client.upload_dataset({"prompts": prompts})
        try:
            return self.graph.prune_scores(dataset, progress=False, batch_size=2)
        finally:
            dataset.delete()


def tensor(dtype: int, shape: list[int], data: bytes) -> common_pb2.Tensor:
    return common_pb2.Tensor(dtype=dtype, shape=shape, data=data)


def pair(clean: str = "When Mary", corrupt: str = "When John", answers: Any = (" to",), wrong: Any = (" a",)) -> dict:
    return {"clean": clean, "corrupt": corrupt, "answers": list(answers), "wrong_answers": list(wrong)}


F32, F16, I32 = common_pb2.DTYPE_FLOAT32, common_pb2.DTYPE_FLOAT16, common_pb2.DTYPE_INT32
MLP1 = "blocks.1.hook_mlp_in"
Z0, MLP_OUT = "blocks.0.attn.hook_z", "blocks.0.hook_mlp_out"
Call = Callable[[World], Any]

# (what, call, code, reason): several reasons where more than one is right.
CASES: list[tuple[str, Call, str, str] | tuple[str, Call, str, str, str]] = [
    # unknown things
    ("model", lambda w: w.client.load_model("no-such", progress=False), "NOT_FOUND", "MODEL_UNKNOWN|MODEL_NOT_FOUND"),
    ("model id", lambda w: ablate.Model.to_tokens(_as(w.model, id="m-no"), "x"), "NOT_FOUND", "MODEL_UNKNOWN"),
    ("graph", lambda w: _as(w.graph, id="g-no").reset_patch_mask(), "NOT_FOUND", "GRAPH_UNKNOWN"),
    ("parameters of no model", lambda w: ablate.Parameters(_as(w.model, id="m-no")), "NOT_FOUND", "MODEL_UNKNOWN"),
    ("parameter", lambda w: w.model.parameters()["blocks.0.attn.W_X"], "NOT_FOUND", "PARAMETER_UNKNOWN"),
    ("grace", lambda w: list(w.client._call("StreamPruneScores", prune_pb2.StreamPruneScoresRequest(grace_ms=-1))),
     "INVALID_ARGUMENT", "GRACE_OUT_OF_RANGE"),
    ("a parameter's column", lambda w: w.model.parameters().columns("unembed.b_U", [1 << 30]), "INVALID_ARGUMENT",
     "PARAMETER_COLUMNS"),
    ("columns without end", lambda w: w.model.parameters().columns("pos_embed.W_pos", [0] * 65537), "INVALID_ARGUMENT",
     "PARAMETER_COLUMNS"),
    ("parameter without a name", lambda w: w.model.parameters()[""], "INVALID_ARGUMENT", ""),
    ("parameter of a layer that is not there", lambda w: w.model.parameters()["blocks.99.attn.W_Q"], "NOT_FOUND",
     "PARAMETER_UNKNOWN"),
    ("parameter of a malformed layer", lambda w: w.model.parameters()["blocks.01.attn.W_Q"], "NOT_FOUND",
     "PARAMETER_UNKNOWN"),
    ("grouped parameter of a model without groups", lambda w: w.model.parameters()["blocks.0.attn._W_K"], "NOT_FOUND",
     "PARAMETER_UNKNOWN"),
    ("embeddings of nothing", lambda w: list(w.client._call("InputToEmbed", model_pb2.InputToEmbedRequest(model_id=w.model.id))),
     "INVALID_ARGUMENT", "PROMPTS_MISSING"),
    ("embeddings of ids outside the vocabulary", lambda w: w.model.input_to_embed([[w.model.cfg.d_vocab]]),
     "INVALID_ARGUMENT", "TOKEN_OUT_OF_RANGE"),
    ("embeddings of too many tokens", lambda w: w.model.input_to_embed(w.tokens(1, w.model.cfg.n_ctx + 1)),
     "INVALID_ARGUMENT", "SEQ_INVALID"),
    ("wrappers of no graph", lambda w: _as(w.graph, id="g-no").wrappers, "NOT_FOUND", "GRAPH_UNKNOWN"),
    ("upload that looks in no known direction", lambda w: _upload(w, attention_dir="backwards"), "UNIMPLEMENTED",
     "CONFIG_UNSUPPORTED"),
    ("upload with a norm that is not known", lambda w: _upload(w, normalization_type="batch"), "UNIMPLEMENTED",
     "CONFIG_UNSUPPORTED"),
    ("upload with experts", lambda w: _upload(w, num_experts=8), "UNIMPLEMENTED", "CONFIG_UNSUPPORTED"),
    ("upload with a cap of the logits", lambda w: _upload(w, output_logits_soft_cap=30.0), "UNIMPLEMENTED",
     "CONFIG_UNSUPPORTED"),
    ("upload that rotates an odd part of a head", lambda w: _upload(w, positional_embedding_type="rotary", rotary_dim=1),
     "INVALID_ARGUMENT", "CONFIG_INVALID"),
    ("upload that rotates more than a head", lambda w: _upload(w, positional_embedding_type="rotary", rotary_dim=4),
     "INVALID_ARGUMENT", "CONFIG_INVALID"),
    ("upload whose heads do not divide", lambda w: _upload(w, n_key_value_heads=3), "INVALID_ARGUMENT",
     "CONFIG_INVALID"),
    ("upload that has MLPs and no weights of them", lambda w: _upload(w, attn_only=False), "NOT_FOUND", "WEIGHT_MISSING"),
    ("upload of another width", lambda w: _upload(w, d_head=3), "INVALID_ARGUMENT", "WEIGHT_SHAPE"),
    ("KV cache of a model that looks ahead", lambda w: _ahead(w, lambda m: m.kv_cache([[0, 1]])), "FAILED_PRECONDITION",
     "MODEL_NOT_CAUSAL"),
    ("hook of a norm where there is none", lambda w: _ahead(w, lambda m: m.run_with_cache([[0]], "ln_final.hook_scale")),
     "FAILED_PRECONDITION", "HOOK_CANNOT_FIRE"),
    ("hook of an MLP where there is none", lambda w: _ahead(w, lambda m: m.run_with_cache([[0]], "blocks.0.mlp.hook_post")),
     "FAILED_PRECONDITION", "HOOK_CANNOT_FIRE"),
    ("graph's model", lambda w: _as(w.model, id="m-no").graph(), "NOT_FOUND", "MODEL_UNKNOWN"),
    ("node", lambda w: list(w.graph.iter_edges(source="A99.0")), "NOT_FOUND", "NODE_UNKNOWN"),
    ("edge's node", lambda w: w.graph.set_patch_mask({"A99.0->MLP 1": 1.0}), "NOT_FOUND", "NODE_UNKNOWN"),
    ("edge syntax", lambda w: w.graph.set_patch_mask({"A0.0-->>": 1.0}), "INVALID_ARGUMENT|NOT_FOUND", ""),
    ("hook", lambda w: w.model.run_with_cache([[1]], "blocks.0.hook_nothing"), "NOT_FOUND", "HOOK_UNKNOWN"),
    ("hook's layer", lambda w: w.model.run_with_cache([[1]], "blocks.99.hook_resid_pre"), "NOT_FOUND", "HOOK_UNKNOWN"),
    ("hook that stays silent", lambda w: w.model.run_with_cache([[1]], "blocks.0.attn.hook_rot_q"),
     "FAILED_PRECONDITION", "HOOK_CANNOT_FIRE"),
    ("algorithm", lambda w: w.client._call("SubmitJob", prune_pb2.SubmitJobRequest(
        spec=prune_pb2.PruneJobSpec(graph_id=w.graph.id, dataset_id=w.dataset.id))), "INVALID_ARGUMENT", ""),
    ("dataset", lambda w: w.submit(dataset_id="d-no"), "NOT_FOUND", "DATASET_UNKNOWN"),
    ("job", lambda w: w.client.job("j-no"), "NOT_FOUND", "JOB_UNKNOWN"),
    ("watched job", lambda w: list(_as(_job(w), id="j-no").watch()), "NOT_FOUND", "JOB_UNKNOWN"),
    ("device", lambda w: w.client.load_model("tiny-ioi", device="tpu:9", progress=False), "INVALID_ARGUMENT", ""),
    # edges that this graph does not have
    ("edge downwards", lambda w: w.graph.set_patch_mask({"A3.0->A1.0.Q": 1.0}), "INVALID_ARGUMENT", "EDGE_NOT_IN_GRAPH"),
    ("edge of merged heads", lambda w: w.graph.set_patch_mask({"A0.0->A1.0": 1.0}), "INVALID_ARGUMENT|NOT_FOUND", ""),
    ("position without positions", lambda w: w.graph.set_patch_mask({("A0.0->MLP 1", 3): 1.0}), "INVALID_ARGUMENT", ""),
    # tokens, batches, sequences
    ("token id too large", lambda w: w.model([[w.model.cfg.d_vocab]]), "INVALID_ARGUMENT", "TOKEN_OUT_OF_RANGE"),
    ("token id negative", lambda w: w.model([[-1]]), "INVALID_ARGUMENT", "TOKEN_OUT_OF_RANGE"),
    ("token id to text", lambda w: w.model.to_string([10**6]), "INVALID_ARGUMENT", "TOKEN_OUT_OF_RANGE"),
    ("empty batch", lambda w: w.model(w.tokens(0, 4)), "INVALID_ARGUMENT", ""),
    ("empty sequence", lambda w: w.model(w.tokens(1, 0)), "INVALID_ARGUMENT", ""),
    ("no prompts", lambda w: w.client._call("Forward", run_pb2.ForwardRequest(model_id=w.model.id)),
     "INVALID_ARGUMENT", ""),
    ("no target", lambda w: w.client._call("Forward", run_pb2.ForwardRequest()), "INVALID_ARGUMENT", ""),
    ("batch over the limit", lambda w: w.model(w.tokens(w.limits.batch + 1, 2), slice_output="last_seq"),
     "INVALID_ARGUMENT|RESOURCE_EXHAUSTED", ""),
    ("sequence over the context", lambda w: w.model(w.tokens(1, w.model.cfg.n_ctx + 1)), "INVALID_ARGUMENT", ""),
    ("sequence over the limit", lambda w: w.model(w.tokens(1, w.limits.seq + 1)),
     "INVALID_ARGUMENT|RESOURCE_EXHAUSTED", ""),
    ("prompts of unequal length", lambda w: w.model(["When", "When Mary went"]), "INVALID_ARGUMENT", "PROMPT_LENGTHS"),
    ("logits over a message", lambda w: w.forward(
        tensor(I32, [64, 64], bytes(64 * 64 * 4)), out_slice=common_pb2.OUT_SLICE_ALL),
     "RESOURCE_EXHAUSTED", "MESSAGE_TOO_BIG"),
    ("clean and corrupt of different shapes", lambda w: w.graph([[1, 2, 3]], ablation_input=[[1, 2]]),
     "INVALID_ARGUMENT", ""),
    ("resample without prompts", lambda w: w.graph([[1, 2, 3]], ablation="resample"), "INVALID_ARGUMENT", ""),
    # tensors
    ("tensor dtype", lambda w: w.forward(tensor(F32, [1, 1], bytes(4))), "INVALID_ARGUMENT", "TENSOR_DTYPE"),
    ("tensor bytes", lambda w: w.forward(tensor(I32, [1, 2], bytes(4))), "INVALID_ARGUMENT", "TENSOR_BYTES"),
    ("tensor rank", lambda w: w.forward(tensor(I32, [1, 1, 1], bytes(4))), "INVALID_ARGUMENT", "TENSOR_SHAPE"),
    ("tensor of negative shape", lambda w: w.forward(tensor(I32, [-1, -4], bytes(16))), "INVALID_ARGUMENT", ""),
    ("tensor whose size overflows", lambda w: w.forward(tensor(I32, [2**62, 2**62], b"")), "INVALID_ARGUMENT", ""),
    ("tensor of nine dimensions", lambda w: w.forward(tensor(I32, [1] * 9, bytes(4))), "INVALID_ARGUMENT", ""),
    ("mask dtype", lambda w: w.mask(MLP1, tensor(F16, [18], bytes(36))), "INVALID_ARGUMENT", "TENSOR_DTYPE"),
    ("mask shape", lambda w: w.mask(MLP1, tensor(F32, [17], bytes(68))), "INVALID_ARGUMENT", "TENSOR_SHAPE"),
    ("mask bytes", lambda w: w.mask(MLP1, tensor(F32, [18], bytes(71))), "INVALID_ARGUMENT", "TENSOR_BYTES"),
    ("mask module", lambda w: w.mask("blocks.9.nothing", tensor(F32, [1], bytes(4))), "NOT_FOUND|INVALID_ARGUMENT", ""),
    ("NaN for an edge", lambda w: w.graph.set_patch_mask({"A0.0->MLP 1": NAN}), "INVALID_ARGUMENT", "MASK_NOT_FINITE"),
    ("infinity for all", lambda w: w.graph.set_patch_mask(INF), "INVALID_ARGUMENT", "MASK_NOT_FINITE"),
    ("NaN in a tensor", lambda w: w.graph.set_patch_mask({MLP1: [NAN] * 18}), "INVALID_ARGUMENT", "MASK_NOT_FINITE"),
    # hooks and kept activations
    ("hook of a graph that is not there", lambda w: _as(w.graph, id="g-no").add_hook(Z0, "zero"),
     "NOT_FOUND", "GRAPH_UNKNOWN"),
    ("hook on a missing point", lambda w: w.graph.add_hook("blocks.0.hook_nothing", "zero"), "NOT_FOUND", "HOOK_UNKNOWN"),
    ("hook on a missing layer", lambda w: w.graph.add_hook("blocks.77.hook_mlp_out", "zero"), "NOT_FOUND", "HOOK_UNKNOWN"),
    ("hook that cannot fire", lambda w: w.graph.add_hook("blocks.0.attn.hook_rot_q", "zero"),
     "FAILED_PRECONDITION", "HOOK_CANNOT_FIRE"),
    ("hook without an operation", lambda w: w.hook(hooks_pb2.Intervention(name=Z0)), "INVALID_ARGUMENT", "HOOK_OPERATION"),
    ("no hook at all", lambda w: w.client._call("AddHook", run_pb2.AddHookRequest(graph_id=w.graph.id)),
     "INVALID_ARGUMENT", "HOOK_MISSING"),
    ("missing head", lambda w: w.graph.add_hook(Z0, "zero", heads=[8]), "INVALID_ARGUMENT", "HOOK_HEADS"),
    ("negative head", lambda w: w.graph.add_hook(Z0, "zero", heads=[-1]), "INVALID_ARGUMENT", "HOOK_HEADS"),
    ("head twice", lambda w: w.graph.add_hook(Z0, "zero", heads=[1, 1]), "INVALID_ARGUMENT", "HOOK_HEADS"),
    ("head of a point without heads", lambda w: w.graph.add_hook(MLP_OUT, "zero", heads=0), "INVALID_ARGUMENT", "HOOK_HEADS"),
    ("too many heads", lambda w: w.graph.add_hook(Z0, "zero", heads=range(2000)), "RESOURCE_EXHAUSTED", "HOOK_INDICES"),
    ("missing position", lambda w: w.hooked(MLP_OUT, {"op": "zero", "pos": 3}), "INVALID_ARGUMENT", "HOOK_POSITIONS"),
    ("missing position from the end", lambda w: w.hooked(MLP_OUT, {"op": "zero", "pos": -4}),
     "INVALID_ARGUMENT", "HOOK_POSITIONS"),
    ("position twice", lambda w: w.hooked(MLP_OUT, {"op": "zero", "pos": [2, -1]}), "INVALID_ARGUMENT", "HOOK_POSITIONS"),
    ("missing row", lambda w: w.hooked(MLP_OUT, {"op": "zero", "rows": 1}), "INVALID_ARGUMENT", "HOOK_ROWS"),
    ("value of another width", lambda w: w.graph.add_hook(MLP_OUT, "set", value=[1.0, 2.0]),
     "INVALID_ARGUMENT", "HOOK_VALUE_SHAPE"),
    ("value of another batch", lambda w: w.hooked(MLP_OUT, {"op": "add", "value": np.ones((2, 3, 128))}),
     "INVALID_ARGUMENT", "HOOK_VALUE_SHAPE"),
    ("value of five dimensions", lambda w: w.graph.add_hook(MLP_OUT, "set", value=np.ones((1, 1, 1, 1, 128))),
     "INVALID_ARGUMENT", "HOOK_VALUE_SHAPE"),
    ("value without elements", lambda w: w.graph.add_hook(MLP_OUT, "set", value=np.ones((0, 128))),
     "INVALID_ARGUMENT", "HOOK_VALUE"),
    ("value that is NaN", lambda w: w.graph.add_hook(MLP_OUT, "set", value=NAN), "INVALID_ARGUMENT", "HOOK_VALUE"),
    ("value of integers", lambda w: w.hook(hooks_pb2.Intervention(
        name=Z0, set=hooks_pb2.SetOperation(value=tensor(I32, [1], bytes(4))))), "INVALID_ARGUMENT", "TENSOR_DTYPE"),
    ("direction of length 0", lambda w: w.graph.add_hook(MLP_OUT, "project_out", direction=np.zeros(128)),
     "INVALID_ARGUMENT", "HOOK_VALUE"),
    ("factor that is infinite", lambda w: w.graph.add_hook(MLP_OUT, "scale", factor=INF), "INVALID_ARGUMENT", "HOOK_VALUE"),
    ("clamp upside down", lambda w: w.graph.add_hook(MLP_OUT, "clamp", min=1, max=-1), "INVALID_ARGUMENT", "HOOK_VALUE"),
    ("mean over nothing", lambda w: w.hook(hooks_pb2.Intervention(name=Z0, mean=hooks_pb2.MeanOperation())),
     "INVALID_ARGUMENT", "HOOK_VALUE"),
    ("scores times a negative number", lambda w: w.graph.add_hook("blocks.0.attn.hook_attn_scores", "scale", factor=-1),
     "FAILED_PRECONDITION", "HOOK_CANNOT_FIRE"),
    ("hooks that overwrite each other", lambda w: w.model.run_with_hooks(
        [[1, 2, 3]], [(Z0, {"op": "zero", "heads": [0, 1]}), (Z0, {"op": "set", "value": 1.0, "pos": -1})]),
     "INVALID_ARGUMENT", "HOOKS_OVERLAP"),
    ("input that nothing reads", lambda w: w.model.run_with_hooks(
        [[1, 2, 3]], [("blocks.0.hook_attn_in", "zero"), ("blocks.0.hook_q_input", "zero")]),
     "FAILED_PRECONDITION", "HOOK_CANNOT_FIRE"),
    ("norm whose heads differ", lambda w: w.model.run_with_cache(
        [[1, 2, 3]], "blocks.0.ln1.hook_scale", fwd_hooks=[("blocks.0.hook_q_input", "zero")]),
     "FAILED_PRECONDITION", "HOOK_CANNOT_FIRE"),
    ("hook behind the stop", lambda w: w.model.run_with_cache(
        [[1, 2, 3]], "hook_embed", stop_at_layer=1, fwd_hooks=[("blocks.2.hook_mlp_out", "zero")]),
     "FAILED_PRECONDITION", "HOOK_CANNOT_FIRE"),
    ("too many hooks", lambda w: w.model.run_with_hooks([[1]], [(MLP_OUT, {"op": "scale", "factor": 1})] * 257),
     "RESOURCE_EXHAUSTED", "TOO_MANY_HOOKS"),
    ("removing a hook that is not there", lambda w: w.client._call(
        "RemoveHook", run_pb2.RemoveHookRequest(graph_id=w.graph.id, hook_id="hook-99")), "NOT_FOUND", "HOOK_ID_UNKNOWN"),
    ("patch from nothing", lambda w: w.graph.add_hook(Z0, "patch", source="activations-no"),
     "NOT_FOUND", "ACTIVATIONS_UNKNOWN"),
    ("patch from another shape", lambda w: w.kept(lambda kept: w.hooked(Z0, {"op": "patch", "source": kept}), [[1, 2]]),
     "INVALID_ARGUMENT", "HOOK_VALUE_SHAPE"),
    ("patch from what was not kept", lambda w: w.kept(lambda kept: w.graph.add_hook(MLP_OUT, "patch", source=kept)),
     "NOT_FOUND", "HOOK_UNKNOWN"),
    ("patch from another variant", lambda w: w.kept(
        lambda kept: w.variant(lambda other: other.run_with_hooks([[1, 2, 3]], [(Z0, {"op": "patch", "source": kept})]))),
     "FAILED_PRECONDITION", "ACTIVATIONS_MODEL_MISMATCH"),
    ("kept activations that are not there", lambda w: w.client._call(
        "DeleteActivations", cache_pb2.DeleteActivationsRequest(activations_id="activations-no")),
     "NOT_FOUND", "ACTIVATIONS_UNKNOWN"),
    ("a tensor that was not kept", lambda w: w.kept(lambda kept: kept.fetch(MLP_OUT)), "NOT_FOUND", "HOOK_UNKNOWN"),
    ("nothing to keep", lambda w: w.model.run_with_cache([[1]], [], keep_on_server=True), "INVALID_ARGUMENT", "NAMES_INVALID"),
    ("gradients of nothing", lambda w: w.model.run_with_cache([[1]], [], incl_bwd=True), "INVALID_ARGUMENT", "NAMES_INVALID"),
    ("gradients without logits", lambda w: w.model.run_with_cache([[1, 2]], Z0, incl_bwd=True, stop_at_layer=1),
     "INVALID_ARGUMENT", "GRADIENT_NEEDS_LOGITS"),
    ("the loss of one token", lambda w: w.model.run_with_cache([[1]], Z0, incl_bwd=True),
     "INVALID_ARGUMENT", "GRADIENT_NEEDS_LOGITS"),
    ("answers of no token", lambda w: w.model.run_with_cache([[1, 2]], Z0 + "_grad", gradient_of=[(10**6, ())]),
     "INVALID_ARGUMENT", "ANSWERS_INVALID"),
    ("no answers", lambda w: w.model.run_with_cache([[1, 2]], Z0 + "_grad", gradient_of=[((), 3)]),
     "INVALID_ARGUMENT", "ANSWERS_INVALID"),
    ("answers of other prompts", lambda w: w.model.run_with_cache([[1, 2]], Z0 + "_grad", gradient_of=[(3, ())] * 3),
     "INVALID_ARGUMENT", "ANSWERS_INVALID"),
    ("gradient that fires three times", lambda w: w.model.run_with_cache(
        [[1, 2]], "blocks.0.ln1.hook_scale_grad", per_head_inputs=True), "FAILED_PRECONDITION", "HOOK_CANNOT_FIRE"),
    ("head to keep", lambda w: w.model.run_with_cache([[1, 2]], Z0, heads=8), "INVALID_ARGUMENT", "HOOK_HEADS"),
    ("head to keep where there is none", lambda w: w.model.run_with_cache([[1, 2]], MLP_OUT, heads=0),
     "INVALID_ARGUMENT", "HOOK_HEADS"),
    ("row to keep", lambda w: w.model.run_with_cache([[1, 2]], Z0, rows=1), "INVALID_ARGUMENT", "HOOK_ROWS"),
    ("position to keep", lambda w: w.model.run_with_cache([[1, 2]], Z0, pos_slice=2), "INVALID_ARGUMENT", "POSITIONS_INVALID"),
    # graphs and jobs
    ("graph longer than the context", lambda w: w.model.graph(seq_len=w.model.cfg.n_ctx + 1), "INVALID_ARGUMENT", ""),
    ("negative seq_len", lambda w: w.model.graph(seq_len=-3), "INVALID_ARGUMENT", ""),
    ("no such kind of graph", lambda w: _graph(w, kind=9), "INVALID_ARGUMENT", "ENUM_UNKNOWN"),
    ("simple graph with merged qkv", lambda w: _graph(w, kind=2, merge_qkv=True), "INVALID_ARGUMENT", "GRAPH_OPTIONS"),
    ("simple graph with expanded kv heads", lambda w: _graph(w, kind=2, expand_kv_heads=True),
     "INVALID_ARGUMENT", "GRAPH_OPTIONS"),
    ("simple graph's edges in EAP's dialect", lambda w: list(_simple(w).iter_edges(dialect="eap")),
     "INVALID_ARGUMENT", "EDGE_DIALECT"),
    ("simple graph's edge of a factorized one", lambda w: _simple(w).set_patch_mask({"A0.0->MLP 0": 1.0}),
     "NOT_FOUND", "NODE_UNKNOWN"),
    ("simple graph's edge that skips a node", lambda w: _simple(w).set_patch_mask({"A0.0->Resid Post 0": 1.0}),
     "INVALID_ARGUMENT", "EDGE_NOT_IN_GRAPH"),
    ("factorized graph's edge of a simple one", lambda w: w.graph.set_patch_mask({"A0.0->Resid Mid 0": 1.0}),
     "NOT_FOUND", "NODE_UNKNOWN"),
    ("batch size", lambda w: w.submit(batch_size=-1), "INVALID_ARGUMENT", ""),
    ("top_k", lambda w: w.submit(top_k=100_000), "INVALID_ARGUMENT", ""),
    ("integrated_grad_samples", lambda w: w.submit(
        mask_gradient=prune_pb2.MaskGradient(integrated_grad_samples=10**6)), "INVALID_ARGUMENT", ""),
    ("mask value", lambda w: w.submit(mask_gradient=prune_pb2.MaskGradient(mask_value=NAN)), "INVALID_ARGUMENT", ""),
    ("ground truth's edge", lambda w: w.submit(ground_truth=prune_pb2.GroundTruth(edges=["A3.0->A1.0.Q"])),
     "INVALID_ARGUMENT", "EDGE_NOT_IN_GRAPH"),
    ("EAP-IG with too many steps", lambda w: w.submit(eap_ig=prune_pb2.EapIg(steps=1001)),
     "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("EAP-IG with negative steps", lambda w: w.submit(eap_ig=prune_pb2.EapIg(steps=-1)),
     "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("EAP-IG clean-corrupted with steps", lambda w: w.submit(
        eap_ig=prune_pb2.EapIg(method=prune_pb2.EAP_IG_METHOD_CLEAN_CORRUPTED, steps=5)),
     "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("EAP-IG inputs to zero", lambda w: w.submit(
        eap_ig=prune_pb2.EapIg(ablation_type=common_pb2.ABLATION_TYPE_ZERO)), "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("EAP-IG with no such method", lambda w: w.submit(eap_ig=prune_pb2.EapIg(method=9)), "INVALID_ARGUMENT", ""),
    ("ACDC without taus", lambda w: w.submit(acdc=prune_pb2.Acdc()), "INVALID_ARGUMENT", "TAUS_INVALID"),
    ("ACDC with descending taus", lambda w: w.submit(acdc=prune_pb2.Acdc(taus=[0.1, 0.01])),
     "INVALID_ARGUMENT", "TAUS_INVALID"),
    ("ACDC with a tau twice", lambda w: w.submit(acdc=prune_pb2.Acdc(taus=[0.1, 0.1])),
     "INVALID_ARGUMENT", "TAUS_INVALID"),
    ("ACDC with taus that are one as float32", lambda w: w.submit(acdc=prune_pb2.Acdc(taus=[0.1, 0.1 + 1e-12])),
     "INVALID_ARGUMENT", "TAUS_INVALID"),
    ("ACDC at tau 0", lambda w: w.submit(acdc=prune_pb2.Acdc(taus=[0])), "INVALID_ARGUMENT", "TAUS_INVALID"),
    ("ACDC at a negative tau", lambda w: w.submit(acdc=prune_pb2.Acdc(taus=[-1, 1])),
     "INVALID_ARGUMENT", "TAUS_INVALID"),
    ("ACDC at tau NaN", lambda w: w.submit(acdc=prune_pb2.Acdc(taus=[0.1, NAN])), "INVALID_ARGUMENT", "TAUS_INVALID"),
    ("ACDC at tau infinity", lambda w: w.submit(acdc=prune_pb2.Acdc(taus=[INF])), "INVALID_ARGUMENT", "TAUS_INVALID"),
    ("ACDC at a tau that is 0 as float32", lambda w: w.submit(acdc=prune_pb2.Acdc(taus=[1e-60])),
     "INVALID_ARGUMENT", "TAUS_INVALID"),
    ("ACDC with 257 taus", lambda w: w.submit(acdc=prune_pb2.Acdc(taus=range(1, 258))),
     "INVALID_ARGUMENT", "TAUS_INVALID"),
    ("ACDC for no such target", lambda w: w.submit(acdc=prune_pb2.Acdc(taus=[1], faithfulness_target=9)),
     "INVALID_ARGUMENT", "ENUM_UNKNOWN"),
    ("ACDC with too many trials at a time", lambda w: w.submit(
        acdc=prune_pb2.Acdc(taus=[1], candidate_count_max=129)), "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("ACDC's order up the layers", lambda w: w.submit(
        acdc=prune_pb2.Acdc(taus=[1], edges=["Resid Start->A0.0.Q", "A0.0->Resid End"])),
     "INVALID_ARGUMENT", "ORDER_INVALID"),
    ("ACDC's order with an edge twice", lambda w: w.submit(
        acdc=prune_pb2.Acdc(taus=[1], edges=["A0.0->Resid End", "A0.0->Resid End"])),
     "INVALID_ARGUMENT", "ORDER_INVALID"),
    ("ACDC's order with an edge that is none", lambda w: w.submit(
        acdc=prune_pb2.Acdc(taus=[1], edges=["A3.0->A1.0.Q"])), "INVALID_ARGUMENT", "EDGE_NOT_IN_GRAPH"),
    ("mask function that does not exist", lambda w: w.client._call("SetMaskFunction",
        mask_pb2.SetMaskFunctionRequest(graph_id=w.graph.id, function=9)), "INVALID_ARGUMENT", ""),
    ("dropout over the limit", lambda w: w.graph.set_mask_fn(None, 1.0), "INVALID_ARGUMENT", "MASK_FUNCTION_INVALID"),
    ("dropout that is NaN", lambda w: w.graph.set_mask_fn(None, NAN), "INVALID_ARGUMENT", "MASK_FUNCTION_INVALID"),
    ("mask function of no graph", lambda w: _as(w.graph, id="g-no").set_mask_fn(None), "NOT_FOUND", "GRAPH_UNKNOWN"),
    ("mask rows over the limit", lambda w: w.graph.set_mask_batch_size(w.limits.batch + 1),
     "INVALID_ARGUMENT", "MASK_BATCH_INVALID"),
    ("negative mask rows", lambda w: w.client._call("SetMaskBatchSize",
        mask_pb2.SetMaskBatchSizeRequest(graph_id=w.graph.id, batch_size=-1)), "INVALID_ARGUMENT", "MASK_BATCH_INVALID"),
    ("mask rows for another batch", lambda w: _with_rows(w, 3, lambda: w.graph(
        w.tokens(2, 4), ablation="zero")), "INVALID_ARGUMENT", "MASK_BATCH_MISMATCH"),
    ("mask tensor of other rows", lambda w: _with_rows(w, 3, lambda: w.mask(
        MLP1, tensor(F32, [2, 18], bytes(144)))), "INVALID_ARGUMENT", "TENSOR_SHAPE"),
    ("gradient without an ablation", lambda w: w.graph.mask_backward(w.tokens(1, 4), np.zeros((1, 1000))),
     "INVALID_ARGUMENT", "ABLATION_MISSING"),
    ("gradient of another shape", lambda w: w.graph.mask_backward(
        w.tokens(1, 4), np.zeros((2, 1000)), ablation="zero"), "INVALID_ARGUMENT", "GRADIENT_SHAPE"),
    ("gradient that is no gradient", lambda w: list(w.client._call("MaskBackward", mask_pb2.MaskBackwardRequest(
        forward=run_pb2.ForwardRequest(graph_id=w.graph.id), logits_gradient=tensor(F32, [1, 2], bytes(3))))),
     "INVALID_ARGUMENT", "TENSOR_BYTES"),
    ("too many epochs", lambda w: w.submit(subnetwork_probing=prune_pb2.SubnetworkProbing(epochs=10_001)),
     "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("negative epochs", lambda w: w.submit(subnetwork_probing=prune_pb2.SubnetworkProbing(epochs=-1)),
     "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("epochs times batches over the limit", lambda w: w.submit(
        subnetwork_probing=prune_pb2.SubnetworkProbing(epochs=10_000), batch_size=1, prompt_count=32_000),
     "INVALID_ARGUMENT|RESOURCE_EXHAUSTED", ""),
    ("learning rate over the limit", lambda w: w.submit(
        subnetwork_probing=prune_pb2.SubnetworkProbing(learning_rate=1000)), "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("learning rate that is NaN", lambda w: w.submit(
        subnetwork_probing=prune_pb2.SubnetworkProbing(learning_rate=NAN)), "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("negative lambda", lambda w: w.submit(
        subnetwork_probing=prune_pb2.SubnetworkProbing(regularize_lambda=-1)), "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("dropout of all", lambda w: w.submit(
        subnetwork_probing=prune_pb2.SubnetworkProbing(dropout_p=1)), "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("initial mask that is infinite", lambda w: w.submit(
        subnetwork_probing=prune_pb2.SubnetworkProbing(init_val=INF)), "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("circuit larger than the graph", lambda w: w.submit(
        subnetwork_probing=prune_pb2.SubnetworkProbing(circuit_size=w.graph.edge_count + 1)),
     "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("edge to avoid that is none", lambda w: w.submit(
        subnetwork_probing=prune_pb2.SubnetworkProbing(avoid_edges=["A3.0->A1.0.Q"])),
     "INVALID_ARGUMENT", "EDGE_NOT_IN_GRAPH"),
    ("mask function", lambda w: w.submit(
        subnetwork_probing=prune_pb2.SubnetworkProbing(mask_function=9)), "INVALID_ARGUMENT", ""),
    ("no prompts left to validate on", lambda w: w.submit(
        subnetwork_probing=prune_pb2.SubnetworkProbing(validation_prompt_count=1)), "INVALID_ARGUMENT", ""),
    ("circuit probing without sizes", lambda w: w.submit(circuit_probing=prune_pb2.CircuitProbing()),
     "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("circuit probing of a size twice", lambda w: w.submit(
        circuit_probing=prune_pb2.CircuitProbing(circuit_sizes=[5, 5])), "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("circuit probing of size 0", lambda w: w.submit(
        circuit_probing=prune_pb2.CircuitProbing(circuit_sizes=[0, 5])), "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("circuit probing with another size", lambda w: w.submit(circuit_probing=prune_pb2.CircuitProbing(
        circuit_sizes=[5], training=prune_pb2.SubnetworkProbing(circuit_size=4))),
     "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("enumeration", lambda w: w.submit(eap=prune_pb2.EdgeAttributionPatching(ablation_type=99)), "INVALID_ARGUMENT", ""),
    ("sizes of circuits", lambda w: w.client.evaluate(_job(w), [-5], progress=False), "INVALID_ARGUMENT", ""),
    ("too many circuits", lambda w: w.client.evaluate(_job(w), list(range(5000)), progress=False),
     "INVALID_ARGUMENT|RESOURCE_EXHAUSTED", ""),
    ("circuits of no job", lambda w: w.client.run_circuits("j-no"), "NOT_FOUND", "JOB_UNKNOWN"),
    # KV caches
    ("KV cache of two prefixes", lambda w: w.model.kv_cache([[0, 1], [0, 2]]), "INVALID_ARGUMENT", "KV_CACHE_PROMPTS"),
    ("KV cache of no prompt", lambda w: w.client._call(
        "CreateKvCache", cache_pb2.CreateKvCacheRequest(model_id=w.model.id)), "INVALID_ARGUMENT", ""),
    ("KV cache of a whole context", lambda w: w.model.kv_cache(w.tokens(1, w.model.cfg.n_ctx)),
     "INVALID_ARGUMENT", "TAIL_EMPTY"),
    ("KV cache of no such token", lambda w: w.model.kv_cache([[-7]]), "INVALID_ARGUMENT", "TOKEN_OUT_OF_RANGE"),
    ("KV cache of no model", lambda w: _as(w.model, id="m-no").kv_cache([[0]]), "NOT_FOUND", "MODEL_UNKNOWN"),
    ("KV caches of no model", lambda w: w.client.kv_caches("m-no"), "NOT_FOUND", "MODEL_UNKNOWN"),
    ("KV cache", lambda w: w.model([[0, 1]], kv_cache="k-no"), "NOT_FOUND", "KV_CACHE_UNKNOWN"),
    ("deleted KV cache", lambda w: _as(_kv(w), id="k-no").delete(), "NOT_FOUND", "KV_CACHE_UNKNOWN"),
    ("graph over no such KV cache", lambda w: w.model.graph(kv_caches=["k-no"]), "NOT_FOUND", "KV_CACHE_UNKNOWN"),
    ("graph over too many KV caches", lambda w: w.model.graph(kv_caches=[_kv(w)] * 5),
     "RESOURCE_EXHAUSTED", "GRAPH_OPTIONS"),
    ("prompt that does not begin with the prefix", lambda w: w.model([[0, 1, 5], [0, 9, 5]], kv_cache=_kv(w)),
     "INVALID_ARGUMENT", "PREFIX_NOT_SHARED"),
    ("ablation that does not begin with the prefix", lambda w: w.graph(
        [[0, 1, 5]], ablation_input=[[0, 2, 5]], kv_cache=_kv(w)), "INVALID_ARGUMENT", "PREFIX_NOT_SHARED"),
    ("prompt that ends with the prefix", lambda w: w.model([[0, 1]], kv_cache=_kv(w)), "INVALID_ARGUMENT", "TAIL_EMPTY"),
    ("KV cache of another variant of the model", lambda w: _other(w)([[0, 1, 5]], kv_cache=_kv(w)),
     "FAILED_PRECONDITION", "PREFIX_MODEL_MISMATCH"),
    ("graph over a KV cache of another variant", lambda w: _other(w).graph(kv_caches=[_kv(w)]),
     "FAILED_PRECONDITION", "PREFIX_MODEL_MISMATCH"),
    ("two ways to name a KV cache", lambda w: w.model(
        [[0, 1, 5]], kv_cache=_kv(w), use_prefix_cache=True, slice_output="last_seq"),
     "INVALID_ARGUMENT", "PREFIX_CACHE_INVALID"),
    ("found KV cache for all positions", lambda w: w.model([[0, 1, 5]], use_prefix_cache=True),
     "INVALID_ARGUMENT", "PREFIX_CACHE_INVALID"),
    ("sweep over prompts that share nothing", lambda w: w.client.evaluate(
        _job(w, prepend_bos=False), [5], dataset=_unshared(w), tail_divergence=True, progress=False),
     "INVALID_ARGUMENT", "PREFIX_NOT_SHARED"),
    ("job over prompts that share nothing", lambda w: w.submit(
        dataset_id=_unshared(w).id, tail_divergence=True, bos=common_pb2.BOS_POLICY_NONE),
     "INVALID_ARGUMENT", "PREFIX_NOT_SHARED"),
    ("job over prompts that are all the same", lambda w: w.submit(
        dataset_id=w.client.upload_dataset({"prompts": [pair("When Mary", "When Mary")]}).id, tail_divergence=True),
     "INVALID_ARGUMENT", "TAIL_EMPTY"),
    # scores from elsewhere, and what is measured of scores
    ("uploaded as an algorithm", lambda w: w.submit(uploaded=prune_pb2.UploadedScores()),
     "INVALID_ARGUMENT", "ALGORITHM_OPTIONS"),
    ("scores of nothing", lambda w: w.graph._create_scores("", None), "INVALID_ARGUMENT", "SCORES_MISSING"),
    ("scores of no mask", lambda w: w.graph._create_scores("", None, current_mask=False),
     "INVALID_ARGUMENT", "SCORES_MISSING"),
    ("scores with a NaN", lambda w: w.graph.upload_scores({MLP1: [NAN] * 18}), "INVALID_ARGUMENT", "SCORES_NOT_FINITE"),
    ("scores of NaN", lambda w: w.graph.new_prune_scores(NAN), "INVALID_ARGUMENT", "SCORES_NOT_FINITE"),
    ("scores of another shape", lambda w: w.graph.upload_scores({MLP1: [0.0] * 3}), "INVALID_ARGUMENT", "TENSOR_SHAPE"),
    ("scores of a module that is not", lambda w: w.graph.upload_scores({"blocks.99.hook_mlp_in": [0.0]}),
     "NOT_FOUND", "MODULE_UNKNOWN"),
    ("scores of an edge that is not", lambda w: w.graph.circuit_prune_scores(["A9.9->Resid End"]),
     "NOT_FOUND", "NODE_UNKNOWN"),
    ("scores with a control character in their origin", lambda w: w.graph.upload_scores({MLP1: [0.0] * 18}, origin="a\nb"),
     "INVALID_ARGUMENT", "NAME_INVALID"),
    ("scores with a long origin", lambda w: w.graph.upload_scores({MLP1: [0.0] * 18}, origin="a" * 300),
     "INVALID_ARGUMENT", "NAME_INVALID"),
    ("graph JSON of another model", lambda w: w.graph.read_eap_graph(_eap(w, cfg={"n_layers": 2, "d_model": 64})),
     "INVALID_ARGUMENT", "GRAPH_CONFIG_MISMATCH", "n_layers is 2 there and 4 here, d_model is 64 there and 128 here"),
    ("graph JSON without a field of its model", lambda w: w.graph.read_eap_graph(_eap(w, cfg={"n_heads": None})),
     "INVALID_ARGUMENT", "GRAPH_CONFIG_MISMATCH", "n_heads is None there and 8 here"),
    ("graph JSON of another graph", lambda w: w.graph.read_eap_graph(_eap(w, edges={"input->m9": {"score": 0}})),
     "INVALID_ARGUMENT", "GRAPH_FILE_MALFORMED", "'input->m9' is none of the graph's"),
    ("graph JSON with an edge that has no score", lambda w: w.graph.read_eap_graph(_eap(w, edges={"input->m0": {}})),
     "INVALID_ARGUMENT", "GRAPH_FILE_MALFORMED", "'input->m0' needs a score"),
    ("graph JSON with a NaN", lambda w: w.graph.upload_scores(w.graph.read_eap_graph(
        _eap(w, edges={"input->m0": {"score": NAN, "in_graph": True}})).scores), "INVALID_ARGUMENT", "SCORES_NOT_FINITE"),
    ("graph JSON that is none", lambda w: w.graph.read_eap_graph({"nodes": {}, "edges": {}}),
     "INVALID_ARGUMENT", "GRAPH_FILE_MALFORMED", "'cfg' is missing"),
    ("graph file that is no JSON", lambda w: w.graph.read_eap_graph(__file__), "INVALID_ARGUMENT", "GRAPH_FILE_MALFORMED"),
    ("scores for no graph", lambda w: _as(w.graph, id="g-no").new_prune_scores(), "NOT_FOUND", "GRAPH_UNKNOWN"),
    ("a metric that is not", lambda w: w.client._call("EvaluateCircuits", evaluate_pb2.EvaluateCircuitsRequest(
        sweep=run_pb2.CircuitSweep(job_id=_job(w).id), metrics=[99])).__next__(), "INVALID_ARGUMENT", ""),
    ("too many metrics", lambda w: w.client.evaluate(_job(w), [1], ["kl_div"] * 50, progress=False),
     "INVALID_ARGUMENT", "METRIC_COUNT"),
    ("comparison with no job", lambda w: w.client.compare(_job(w), "job-no"), "NOT_FOUND", "JOB_UNKNOWN"),
    ("comparison over another graph", lambda w: w.client.compare(
        _job(w), w.model.graph(seq_len=4).new_prune_scores()), "FAILED_PRECONDITION", "GRAPH_MISMATCH"),
    ("comparison at a size that is not", lambda w: w.client.compare(_job(w), _job(w), [10**9]),
     "INVALID_ARGUMENT", "CIRCUIT_SIZE_INVALID"),
    ("comparison at too many sizes", lambda w: w.client.compare(_job(w), _job(w), [1] * 5000),
     "RESOURCE_EXHAUSTED", "CIRCUIT_COUNT"),
    ("ROC of no reference", lambda w: w.client._call(
        "MeasureRoc", evaluate_pb2.MeasureRocRequest(job_id=_job(w).id)), "INVALID_ARGUMENT", "REFERENCE_MISSING"),
    ("ROC of an empty reference", lambda w: w.client.roc(_job(w), []), "INVALID_ARGUMENT", "REFERENCE_TRIVIAL"),
    ("ROC of everything", lambda w: w.client.roc(_job(w), w.graph.new_prune_scores(1)),
     "INVALID_ARGUMENT", "REFERENCE_TRIVIAL"),
    ("ROC of an edge that is not", lambda w: w.client.roc(_job(w), ["A3.0->A1.0.Q"]),
     "INVALID_ARGUMENT", "EDGE_NOT_IN_GRAPH"),
    ("ROC of a negative reference", lambda w: w.client.roc(_job(w), _job(w), reference_edge_count=-1),
     "INVALID_ARGUMENT", "CIRCUIT_SIZE_INVALID"),
    ("completeness at NaN", lambda w: w.client.completeness(_job(w), _job(w), [1], knockout_threshold=NAN),
     "INVALID_ARGUMENT", "THRESHOLD_INVALID"),
    ("completeness without knockouts", lambda w: w.client.completeness(_job(w), "job-no", [1]),
     "NOT_FOUND", "JOB_UNKNOWN"),
    ("completeness of a size that is not", lambda w: w.client.completeness(_job(w), _job(w), [10**9]),
     "INVALID_ARGUMENT", "CIRCUIT_SIZE_INVALID"),
    ("a sweep over uploaded scores without a dataset", lambda w: w.client.evaluate(
        w.graph.new_prune_scores(), [1], progress=False), "INVALID_ARGUMENT", "DATASET_MISSING"),
    ("shares of edges over 1", lambda w: w.client.evaluate(_job(w), [1.5], progress=False),
     "INVALID_ARGUMENT", "CIRCUIT_SIZE_INVALID"),
    ("share of edges that is no number", lambda w: w.client.evaluate(_job(w), [NAN], progress=False),
     "INVALID_ARGUMENT", "CIRCUIT_SIZE_INVALID"),
    ("a rule and a list of sizes", lambda w: w.sweep(
        edge_counts=[1], sizes=run_pb2.EdgeCounts(kind=run_pb2.EDGE_COUNTS_KIND_ALL)),
     "INVALID_ARGUMENT", "EDGE_COUNTS_CONFLICT"),
    ("more sizes than a sweep has", lambda w: w.client.evaluate(_job(w), [1] * 5000, progress=False),
     "RESOURCE_EXHAUSTED", "CIRCUIT_COUNT"),
    ("true edge count over all", lambda w: w.sweep(
        edge_counts=[1], sizes=run_pb2.EdgeCounts(true_edge_count=10**6)), "INVALID_ARGUMENT", "CIRCUIT_SIZE_INVALID"),
    # ablations
    ("ablation id", lambda w: w.graph([[1]], ablation=_resident(w, "ablation-no")), "NOT_FOUND", "ABLATION_UNKNOWN"),
    ("job's ablation id", lambda w: w.submit(ablation_id="ablation-no"), "NOT_FOUND", "ABLATION_UNKNOWN"),
    ("sweep's ablation id", lambda w: w.sweep(ablation_id="ablation-no"), "NOT_FOUND", "ABLATION_UNKNOWN"),
    ("deleted ablation", lambda w: _resident(w, "ablation-no").delete(), "NOT_FOUND", "ABLATION_UNKNOWN"),
    ("ablation of zeros", lambda w: w.ablation(w.dataset, "zero"), "INVALID_ARGUMENT", "ABLATION_ZERO"),
    ("ablation of nothing", lambda w: w.create(), "INVALID_ARGUMENT", "ABLATION_SOURCE"),
    ("ablation of an unknown dataset", lambda w: w.create(dataset_id="d-no"), "NOT_FOUND", "DATASET_UNKNOWN"),
    ("ablation of an unknown model", lambda w: w.create(model_id="m-no", dataset_id=w.dataset.id),
     "NOT_FOUND", "MODEL_UNKNOWN"),
    ("ablation over no prompts", lambda w: w.ablation(w.tokens(0, 4), "tokenwise_mean_clean"), "INVALID_ARGUMENT", ""),
    ("ablation over empty texts", lambda w: w.create(prompts=common_pb2.Prompts(text=common_pb2.TextPrompts())),
     "INVALID_ARGUMENT", ""),
    ("ablation of more prompts than there are", lambda w: w.create(dataset_id=w.dataset.id, prompt_count=33),
     "INVALID_ARGUMENT", "PROMPT_COUNT_INVALID"),
    ("ablation in batches of -1", lambda w: w.create(dataset_id=w.dataset.id, batch_size=-1),
     "INVALID_ARGUMENT", "BATCH_INVALID"),
    ("prompts that are the clean ones", lambda w: w.create(
        prompts=common_pb2.Prompts(tokens=tensor(I32, [1, 1], bytes(4))), from_clean=True),
     "INVALID_ARGUMENT", "ABLATION_SOURCE"),
    ("ablation and type", lambda w: w.submit(
        ablation_id="ablation-no", eap=prune_pb2.EdgeAttributionPatching(ablation_type=common_pb2.ABLATION_TYPE_ZERO)),
     "INVALID_ARGUMENT", "ABLATION_CONFLICT"),
    ("ablation and side", lambda w: w.submit(ablation_id="ablation-no", ablate_by_clean=True),
     "INVALID_ARGUMENT", "ABLATION_CONFLICT"),
    ("ablation for random scores", lambda w: w.submit(ablation_id="ablation-no", random=prune_pb2.RandomScores()),
     "INVALID_ARGUMENT", "ABLATION_CONFLICT"),
    ("ablation of another length", lambda w: w.ablating(w.tokens(1, 5), lambda a: w.graph([[1, 2]], ablation=a)),
     "INVALID_ARGUMENT", "ABLATION_SHAPE"),
    ("ablation of other rows", lambda w: w.ablating(
        w.tokens(3, 2), lambda a: w.graph([[1, 2], [3, 4]], ablation=a), "resample"),
     "INVALID_ARGUMENT", "ABLATION_SHAPE"),
    ("job with an ablation of another length", lambda w: w.ablating(
        w.tokens(1, 5), lambda a: w.submit(ablation_id=a.id)), "INVALID_ARGUMENT", "ABLATION_SHAPE"),
    ("job with rows of other prompts", lambda w: w.ablating(
        w.tokens(40, 16), lambda a: w.submit(ablation_id=a.id), "resample"),
     "INVALID_ARGUMENT", "ABLATION_DATASET_MISMATCH"),
    ("job with rows of fewer prompts", lambda w: w.ablating(
        w.dataset, lambda a: w.submit(ablation_id=a.id), "resample", prompt_count=4),
     "INVALID_ARGUMENT", "ABLATION_SHAPE"),
    ("ablation of two prefixes", lambda w: w.model.create_ablation(
        [[0, 1, 5]], "resample", kv_cache=_kv(w), tail_divergence=True), "INVALID_ARGUMENT", "TAIL_DIVERGENCE"),
    ("ablation of prompts that do not begin with the prefix", lambda w: w.model.create_ablation(
        [[0, 2, 5]], "resample", kv_cache=_kv(w)), "INVALID_ARGUMENT", "PREFIX_NOT_SHARED"),
    # datasets
    ("dataset that is no JSON", lambda w: w.client.upload_dataset(b"{nope"), "INVALID_ARGUMENT", "DATASET_MALFORMED"),
    ("dataset that is a list", lambda w: w.client.upload_dataset(b"[]"), "INVALID_ARGUMENT", "DATASET_MALFORMED"),
    ("dataset without prompts", lambda w: w.client.upload_dataset({}), "INVALID_ARGUMENT", "DATASET_MALFORMED"),
    ("dataset of no prompts", lambda w: w.client.upload_dataset({"prompts": []}), "INVALID_ARGUMENT", ""),
    ("dataset without a key", lambda w: w.client.upload_dataset({"prompts": [{"clean": "a", "corrupt": "b"}]}),
     "INVALID_ARGUMENT", "DATASET_MALFORMED"),
    ("dataset of wrong types", lambda w: w.client.upload_dataset({"prompts": [pair() | {"clean": 5}]}),
     "INVALID_ARGUMENT", "DATASET_MALFORMED"),
    ("dataset that nests too deep", lambda w: w.client.upload_dataset(b"[" * 100_000),
     "INVALID_ARGUMENT", "DATASET_MALFORMED"),
    ("dataset that is not UTF-8", lambda w: w.client.upload_dataset(json.dumps({"prompts": [pair()]}).encode() + b"\xff"),
     "INVALID_ARGUMENT", "DATASET_MALFORMED"),
    ("pairs of unequal length", lambda w: w.run([pair(clean="When Mary went to the store")]), "INVALID_ARGUMENT", ""),
    ("prompts of different lengths", lambda w: w.run([pair(), pair("When Mary went", "When John went")]),
     "INVALID_ARGUMENT", ""),
    ("answer of several tokens", lambda w: w.run([pair(answers=[" incomprehensibilities"])]),
     "INVALID_ARGUMENT", "ANSWER_NOT_ONE_TOKEN"),
    ("answer of no token", lambda w: w.run([pair(answers=[""])]), "INVALID_ARGUMENT", ""),
]  # fmt: skip


def _with_rows(world: World, rows: int, call: Callable[[], Any]) -> Any:
    """A call while the graph's mask has rows for prompts."""
    with world.graph.set_mask_batch_size(rows):
        return call()


def _as(thing: Any, **attributes: Any) -> Any:
    """A copy of a handle with another id."""
    copy = object.__new__(type(thing))
    copy.__dict__.update(thing.__dict__)
    for name, value in attributes.items():
        if isinstance(thing, ablate.Job):
            copy._proto = prune_pb2.Job(job_id=value)
        else:
            setattr(copy, name, value)
    return copy


def _graph(world: World, **options: Any) -> Any:
    """A graph with options that the client would not send."""
    request = graph_pb2.CreateGraphRequest(model_id=world.model.id, options=common_pb2.GraphOptions(**options))
    return world.client._call("CreateGraph", request)


def _eap(world: World, **changes: dict[str, Any]) -> dict[str, Any]:
    """The graph's file of EAP-IG, with other entries in its parts."""
    content = world.graph.eap_graph(world.graph.prune_scores(world.dataset, "random", progress=False)).to_dict()
    return content | {part: content[part] | entries for part, entries in changes.items()}


def _simple(world: World) -> ablate.Graph:
    """A simple graph over the model."""
    return world.model.graph(factorized=False)


def _micro(**changes: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A small network whose configuration was changed."""
    config, tensors = ablate.micro.convert([[[1, 2], [3, 4]]], [[1, 0], [0, 1]], n_ctx=8)
    return config | changes, tensors


def _upload(world: World, **changes: Any) -> ablate.Model:
    return world.client.upload_model(_micro(**changes), name="changed", progress=False)


def _ahead(world: World, call: Callable[[ablate.Model], Any]) -> Any:
    """A call of a model whose positions see all others."""
    model = _upload(world, attention_dir="bidirectional")
    try:
        return call(model)
    finally:
        model.unload()


def _job(world: World, **options: Any) -> ablate.Job:
    """A finished job."""
    return world.graph.prune_scores(world.dataset, "random", progress=False, **options).job


def _kv(world: World) -> ablate.KvCache:
    """The cache of two tokens."""
    return world.model.kv_cache([[0, 1]])


def _other(world: World) -> ablate.Model:
    """Another variant of the model."""
    return world.client.load_model("tiny-ioi", "tl", progress=False)


def _unshared(world: World) -> ablate.Dataset:
    """Prompts that begin with different tokens."""
    return world.client.upload_dataset({"prompts": [pair(), pair("Then Mary", "Then John")]})


def _resident(world: World, id: str) -> ablate.ResidentAblation:
    return ablate.ResidentAblation(
        world.client, cache_pb2.ResidentAblation(ablation_id=id, type=common_pb2.ABLATION_TYPE_RESAMPLE)
    )
