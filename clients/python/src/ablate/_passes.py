# SPDX-License-Identifier: Apache-2.0
"""Passes of models and graphs: what their requests say, and what comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Iterator, Literal, Sequence, Union

from ._arrays import Array, collect_chunks
from ._cache import ActivationCache
from ._hooks import FwdHooks, Indices, indices_of, kept, make_gradient_of, make_interventions, positions_of
from .v1 import common_pb2, run_pb2

if TYPE_CHECKING:
    from ._model import Model

SliceOutput = Union[Literal["last_seq", "not_first_seq"], None]
"""Positions whose logits are returned: ``None`` all, as in AutoCircuit."""
NamesFilter = Union[str, Sequence[str], Callable[[str], bool], None]
"""Hook points to keep: a name, names, a predicate of the name, or ``None`` for all."""

_OUT_SLICES = {
    None: common_pb2.OUT_SLICE_ALL,
    "last_seq": common_pb2.OUT_SLICE_LAST_SEQ,
    "not_first_seq": common_pb2.OUT_SLICE_NOT_FIRST_SEQ,
}
# Below this many bytes logits come in one message, above it as a stream.
_ONE_MESSAGE_BYTES = 2 << 20


def out_slice(slice_output: SliceOutput) -> common_pb2.OutSlice:
    """The protocol's number for a slice; ValueError for anything else."""
    try:
        return _OUT_SLICES[slice_output]
    except KeyError:
        raise ValueError(
            f"slice_output must be None, 'last_seq' or 'not_first_seq', not {slice_output!r}"
        ) from None


def forward(model: "Model", request: run_pb2.ForwardRequest) -> Array:
    shape = list(request.prompts.tokens.shape)
    positions = 1 if request.out_slice == common_pb2.OUT_SLICE_LAST_SEQ else (shape or [0, 0])[1]
    small = bool(shape) and shape[0] * positions * model.cfg.d_vocab_out * 4 <= _ONE_MESSAGE_BYTES
    if not small:
        logits, _ = run_with_cache(model, request, [], None, False)
        return logits
    tensor = model.client._call("Forward", request).logits
    return model.client._decode(tensor)


def run_with_cache(
    model: "Model",
    forward: run_pb2.ForwardRequest,
    names_filter: NamesFilter,
    stop_at_layer: int | None,
    per_head_inputs: bool,
    *,
    keep_on_server: bool = False,
    **options: Any,
) -> tuple[Array | None, Any]:
    lazy = not keep_on_server and (names_filter is None or callable(names_filter))
    options["keep_on_server"] = keep_on_server or lazy
    request = _cache_request(model, forward, names_filter, stop_at_layer, per_head_inputs, **options)
    return _read_cache(model, model.client._call("RunWithCache", request), lazy)


def _cache_request(
    model: "Model",
    forward: run_pb2.ForwardRequest,
    names_filter: NamesFilter,
    stop_at_layer: int | None,
    per_head_inputs: bool,
    *,
    pos_slice: Any = None,
    heads: Indices = None,
    rows: Indices = None,
    incl_bwd: bool = False,
    gradient_of: Any = None,
    keep_on_server: bool = False,
    fwd_hooks: FwdHooks = None,
    remove_batch_dim: bool = False,
) -> run_pb2.RunWithCacheRequest:
    if remove_batch_dim:
        raise ValueError("remove_batch_dim: the batch dimension is never squeezed; index it")
    request = run_pb2.RunWithCacheRequest(
        forward=forward,
        per_head_inputs=per_head_inputs,
        incl_bwd=incl_bwd,
        keep_on_server=keep_on_server,
        gradient_of=make_gradient_of(gradient_of),
        positions=positions_of(pos_slice, lambda: _length(model, forward)),
        heads=indices_of(heads),
        rows=indices_of(rows),
    )
    request.forward.interventions.extend(make_interventions(fwd_hooks))
    if stop_at_layer is not None:
        # 0 is the protocol's word for all layers; no layer is as many from the end as there are.
        request.stop_at_layer = stop_at_layer or -model.cfg.n_layers
    if names_filter is None:
        request.all_names = True
    elif isinstance(names_filter, str):
        request.names.append(names_filter)
    elif callable(names_filter):
        request.names.extend(
            point.name for point in model.hook_points() if names_filter(point.name)
        )
    else:
        request.names.extend(names_filter)
    return request


def _read_cache(model: "Model", stream: Any, lazy: bool) -> tuple[Array | None, Any]:
    last = run_pb2.RunWithCacheResponse()

    def chunks() -> Iterator[common_pb2.TensorChunk]:
        for message in stream:
            if message.HasField("chunk"):
                yield message.chunk
            else:
                last.CopyFrom(message)

    arrays = dict(collect_chunks(chunks(), model.client.arrays))
    logits = arrays.pop("logits", None)
    source = None
    if last.activations_id:
        source = kept(model, last.activations_id, last.scalar)
        if not lazy:
            return logits, source
    cache = ActivationCache(arrays, model, source)
    if source is not None:
        model.client._lazy.hold(cache, source)
    if any(name.endswith("_grad") for name in cache):
        cache.scalar = last.scalar
    return logits, cache


def _length(model: "Model", forward: run_pb2.ForwardRequest) -> int:
    """Tokens of the prompts, behind a KV cache those of the tails."""
    prompts = forward.prompts
    if prompts.HasField("tokens"):
        length = int(prompts.tokens.shape[1])
    else:
        bos = {common_pb2.BOS_POLICY_PREPEND: True, common_pb2.BOS_POLICY_NONE: False}
        texts = list(prompts.text.prompts[:1])
        length = len(model.to_token_lists(texts, bos.get(prompts.text.bos))[0])
    if forward.kv_cache_id:
        caches = {cache.id: len(cache) for cache in model.client.kv_caches(model)}
        length -= caches.get(forward.kv_cache_id, 0)
    return length
