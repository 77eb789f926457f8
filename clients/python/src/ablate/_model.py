# SPDX-License-Identifier: Apache-2.0
"""A resident model: tokens, forward passes, activations. Method names are TransformerLens's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence, overload

import numpy as np

from . import _passes
from ._ablation import ResidentAblation, create_ablation, src_ablations
from ._arrays import (
    Array,
    Prompt,
    Tokens,
    bos_policy,
    collect_chunks,
    encode_prompts,
    to_backend,
    to_numpy,
)
from ._caches import KvCache, KvCacheLike, kv_cache_id
from ._config import HookPoint, ModelConfig, dtype_name
from ._graph import Graph
from ._hooks import Activations, FwdHooks, Indices, list_activations, make_interventions
from ._parameters import Blocks, Component, Parameters
from ._passes import NamesFilter, SliceOutput, out_slice
from .v1 import cache_pb2, common_pb2, graph_pb2, model_pb2, run_pb2

if TYPE_CHECKING:
    from ._client import Client


class Model:
    """A resident model, from :meth:`Client.model` or :meth:`Client.load_model`.

    The daemon holds the weights; this object is a handle and may be copied freely. Calls raise
    :class:`ablate.NotFoundError` (``MODEL_UNKNOWN``) once the model is unloaded; those with text
    :class:`ablate.FailedPreconditionError` (``TOKENIZER_MISSING``) where it has no tokenizer.
    """

    def __init__(self, client: "Client", proto: model_pb2.Model):
        self.client = client
        self.id: str = proto.model_id
        """The handle."""
        self.name: str = proto.name
        """The name it was loaded by."""
        self.cfg = ModelConfig._from_proto(proto)
        """Its shape."""
        self.hash: str = proto.hash
        """sha256 of its weights, lower-case hex."""
        self.weight_bytes: int = proto.weight_bytes
        """Bytes of its resident weights."""
        self.device: str = proto.device
        """``"cpu"`` or ``"cuda:N"``."""
        self.dtype: str = dtype_name(proto.dtype)
        """Element type of its resident weights: ``"float32"``."""
        self.default_prepend_bos: bool = proto.default_prepend_bos
        """What ``prepend_bos=None`` means."""
        self.has_tokenizer: bool = proto.has_tokenizer
        """False for an uploaded model without one; text is then refused."""
        self.processing: dict[str, bool] = {
            field.name: getattr(proto.processing, field.name)
            for field in common_pb2.WeightProcessing.DESCRIPTOR.fields
        }
        """TransformerLens's weight transforms, and whether each was applied."""
        self._hook_points: list[HookPoint] | None = None
        self._parameters: Parameters | None = None

    def __repr__(self) -> str:
        return f"<ablate.Model {self.name!r} ({self.id}): {self._shape()}>"

    def _repr_html_(self) -> str:
        from ._html import model

        return model(self)

    def _shape(self) -> str:
        cfg = self.cfg
        heads = f"{cfg.n_heads} heads"
        if cfg.n_key_value_heads != cfg.n_heads:
            heads += f" over {cfg.n_key_value_heads} key-value heads"
        return f"{cfg.family}, {cfg.n_layers} layers, {heads}, d_model {cfg.d_model}, {self.dtype}"

    # --- tokens ---------------------------------------------------------------------------

    def to_tokens(self, input: str | Sequence[str], prepend_bos: bool | None = None) -> Array:
        """Text to ids: int64 ``[batch, pos]``, also for one text.

        Raises ValueError if the texts differ in their number of tokens: nothing is padded. Use
        :meth:`to_token_lists` for texts of any length.
        """
        lists = self.to_token_lists([input] if isinstance(input, str) else input, prepend_bos)
        lengths = sorted({len(ids) for ids in lists})
        if len(lengths) > 1:
            raise ValueError(f"the texts have from {lengths[0]} to {lengths[-1]} tokens, not one length")
        return to_backend(np.array(lists, dtype=np.int64).reshape(len(lists), -1), self.client.arrays)

    def to_token_lists(
        self, texts: Sequence[str], prepend_bos: bool | None = None
    ) -> list[list[int]]:
        """Texts to ids, a list a text."""
        response = self.client._call(
            "ToTokens",
            model_pb2.ToTokensRequest(model_id=self.id, texts=texts, bos=bos_policy(prepend_bos)),
        )
        return [list(tokens.ids) for tokens in response.tokens]

    @overload
    def to_str_tokens(self, input: str, prepend_bos: bool | None = None) -> list[str]: ...
    @overload
    def to_str_tokens(self, input: Any, prepend_bos: bool | None = None) -> Any: ...
    def to_str_tokens(self, input: Any, prepend_bos: bool | None = None) -> Any:
        """The text of each token of a text or of ids ``[pos]`` (or ``[1, pos]``); a list of texts
        gives a list of lists.
        """
        if isinstance(input, (list, tuple)) and input and isinstance(input[0], str):
            return [self.to_str_tokens(text, prepend_bos) for text in input]
        request = model_pb2.ToStrTokensRequest(model_id=self.id, bos=bos_policy(prepend_bos))
        if isinstance(input, str):
            request.text = input
        else:
            request.tokens.CopyFrom(model_pb2.TokenIds(ids=self._flat_ids(input)))
        return list(self.client._call("ToStrTokens", request).str_tokens)

    def to_string(self, tokens: Tokens | int) -> Any:
        """Ids to text: ``[pos]`` or one id gives a string, ``[batch, pos]`` a list of them."""
        ids = to_numpy(tokens)
        if ids.ndim == 2:
            return [self.to_string(row) for row in ids]
        request = model_pb2.ToStringRequest(
            model_id=self.id, tokens=model_pb2.TokenIds(ids=ids.reshape(-1).tolist())
        )
        text: str = self.client._call("ToString", request).text
        return text

    def to_single_token(self, string: str) -> int:
        """The id of a text that is one token. Raises ValueError, with its tokens, if it is not."""
        ids = self.to_token_lists([string], prepend_bos=False)[0]
        if len(ids) != 1:
            raise ValueError(
                f"{string!r} is not one token but {len(ids)}: {self.to_str_tokens(string, False)}"
            )
        return ids[0]

    def to_single_str_token(self, token: int) -> str:
        """The text of one id."""
        texts: list[str] = self.to_str_tokens([token])
        return texts[0]

    @staticmethod
    def _flat_ids(tokens: Tokens) -> list[int]:
        ids = to_numpy(tokens)
        if ids.ndim == 2 and ids.shape[0] == 1:
            ids = ids[0]
        if ids.ndim != 1:
            raise ValueError(f"token ids must be [pos] or [1, pos], not of shape {ids.shape}")
        return [int(token) for token in ids]

    # --- weights --------------------------------------------------------------------------

    def parameters(self) -> Parameters:
        """The weights by TransformerLens's names, each fetched when it is read."""
        if self._parameters is None:
            self._parameters = Parameters(self)
        return self._parameters

    def state_dict(self) -> dict[str, Array]:
        """All weights, fetched, in TransformerLens's shapes: ``W_Q`` is ``[n_heads, d_model, d_head]``."""
        return dict(self.parameters())

    @property
    def blocks(self) -> Blocks:
        """The layers: ``model.blocks[3].attn.W_Q`` is fetched when it is read."""
        return Blocks(self.parameters(), self.cfg.n_layers)

    @property
    def embed(self) -> Component:
        """``embed.W_E``."""
        return Component(self.parameters(), "embed.")

    @property
    def pos_embed(self) -> Component:
        """``pos_embed.W_pos``, where positions are learned."""
        return Component(self.parameters(), "pos_embed.")

    @property
    def ln_final(self) -> Component:
        """``ln_final.w`` and ``.b``, where they are not folded."""
        return Component(self.parameters(), "ln_final.")

    @property
    def unembed(self) -> Component:
        """``unembed.W_U`` and ``.b_U``."""
        return Component(self.parameters(), "unembed.")

    def input_to_embed(
        self, input: Prompt, prepend_bos: bool | None = None
    ) -> tuple[Array, Array, None, None]:
        """What block 0 reads, as TransformerLens returns it: ``(residual, tokens,
        shortformer_pos_embed, attention_mask)``.

        residual: ``[batch, pos, d_model]``; tokens: int64 ``[batch, pos]``. The last two are None:
        no model here has shortformer positions, and nothing is ever padded.
        """
        request = model_pb2.InputToEmbedRequest(
            model_id=self.id, prompts=encode_prompts(input, prepend_bos)
        )
        messages = list(self.client._call("InputToEmbed", request))
        chunks = (message.chunk for message in messages if message.HasField("chunk"))
        ((_, residual),) = collect_chunks(chunks, self.client.arrays)
        tokens = to_numpy(self.client._decode(messages[-1].tokens)).astype(np.int64)
        return residual, to_backend(tokens, self.client.arrays), None, None

    # --- passes ---------------------------------------------------------------------------

    def forward(
        self,
        input: Prompt,
        *,
        slice_output: SliceOutput = None,
        prepend_bos: bool | None = None,
        kv_cache: KvCacheLike = None,
        use_prefix_cache: bool = False,
    ) -> Array:
        """Logits: float32 ``[batch, pos, d_vocab_out]``, or ``[batch, d_vocab_out]`` for ``"last_seq"``.

        ``input`` is a text, texts of equal token count, or ids ``[batch, pos]``; ids are used as they
        are. ``kv_cache``: prompts, still given whole, begin with its tokens; only what is behind them is
        run and returned. ``use_prefix_cache``, with ``"last_seq"`` only: the longest cache that fits is
        used, if there is one; the result is the same.

        Raises :class:`ablate.InvalidArgumentError` for ids outside the vocabulary, prompts of unequal
        length, batches or sequences over the daemon's limits, and prompts that do not begin with the
        cache's tokens (``PREFIX_NOT_SHARED``).
        """
        request = self._request(input, slice_output, prepend_bos, kv_cache)
        request.use_prefix_cache = use_prefix_cache
        return _passes.forward(self, request)

    __call__ = forward

    def run_with_hooks(
        self,
        input: Prompt,
        fwd_hooks: FwdHooks = None,
        *,
        slice_output: SliceOutput = None,
        prepend_bos: bool | None = None,
        kv_cache: KvCacheLike = None,
        use_prefix_cache: bool = False,
    ) -> Array:
        """Logits of a pass that is intervened in: ``fwd_hooks=[("blocks.0.hook_mlp_out", "zero"),
        ("blocks.1.attn.hook_z", {"op": "scale", "factor": 2.0, "heads": [1], "pos": -1})]``.

        Interventions are data, not functions; :mod:`ablate._hooks` lists the operations. They apply in
        order, and leave with the pass. Their positions are the whole prompt's, also behind a
        ``kv_cache``, whose own tokens they must not be about (``HOOK_IN_PREFIX``);
        ``use_prefix_cache`` takes the longest that ends before them.
        """
        request = self._request(input, slice_output, prepend_bos, kv_cache)
        request.use_prefix_cache = use_prefix_cache
        request.interventions.extend(make_interventions(fwd_hooks))
        return _passes.forward(self, request)

    def run_with_cache(
        self,
        input: Prompt,
        names_filter: NamesFilter = None,
        *,
        pos_slice: Any = None,
        heads: Indices = None,
        rows: Indices = None,
        stop_at_layer: int | None = None,
        incl_bwd: bool = False,
        gradient_of: Any = "loss",
        keep_on_server: bool = False,
        fwd_hooks: FwdHooks = None,
        per_head_inputs: bool = False,
        slice_output: SliceOutput = None,
        prepend_bos: bool | None = None,
        kv_cache: KvCacheLike = None,
        remove_batch_dim: bool = False,
    ) -> tuple[Array | None, Any]:
        """Logits and the activations at hook points, as an :class:`ActivationCache`.

        ``names_filter``: a name, names, a predicate, or ``None`` for every hook point that can fire.
        Activations that are named come at once; those of a predicate and of ``None`` stay on the daemon
        as long as the cache does here, and each is fetched when it is read.
        ``pos_slice``: positions to keep, as TransformerLens's; the axis stays. ``heads``, ``rows``: what
        to keep of those axes.
        ``stop_at_layer``: only blocks below it run (negative: from the end), and the logits are None.
        ``incl_bwd``: gradients, too, under the name with ``"_grad"`` behind it; such names may also be
        asked for. They are of ``gradient_of``: ``"loss"``, the mean next-token loss as in
        TransformerLens, or a row for each prompt (or one for all) of ``(answers, wrong_answers)``, the
        mean logit difference; ``cache.scalar`` is its value.
        ``keep_on_server``: the activations stay there, and an :class:`Activations` handle comes back.
        ``fwd_hooks``: as :meth:`run_with_hooks`; activations are those after the interventions.
        ``per_head_inputs``: TransformerLens's ``use_split_qkv_input``; gives ``ln1`` a head axis.
        ``remove_batch_dim`` is refused: the batch dimension is always there.

        Raises :class:`ablate.NotFoundError` (``HOOK_UNKNOWN``) for a name that does not exist and
        :class:`ablate.FailedPreconditionError` (``HOOK_CANNOT_FIRE``) for one that stays silent here.
        """
        request = self._request(input, slice_output, prepend_bos, kv_cache)
        return _passes.run_with_cache(
            self,
            request,
            names_filter,
            stop_at_layer,
            per_head_inputs,
            pos_slice=pos_slice,
            heads=heads,
            rows=rows,
            incl_bwd=incl_bwd,
            gradient_of=gradient_of,
            keep_on_server=keep_on_server,
            fwd_hooks=fwd_hooks,
            remove_batch_dim=remove_batch_dim,
        )

    def activations(self) -> list[Activations]:
        """What ``run_with_cache(..., keep_on_server=True)`` left on the daemon."""
        return list_activations(self)

    def hook_points(self) -> list[HookPoint]:
        """The hook points that can fire in this model, in the order in which they fire."""
        if self._hook_points is None:
            response = self.client._call(
                "ListHookPoints", model_pb2.ListHookPointsRequest(model_id=self.id)
            )
            self._hook_points = [
                HookPoint(point.name, point.bridge_name, tuple(point.shape))
                for point in response.hook_points
            ]
        return self._hook_points

    # --- caches ---------------------------------------------------------------------------

    def kv_cache(self, prefix: Prompt, prepend_bos: bool | None = None) -> KvCache:
        """Runs one prefix and keeps its keys and values; the same tokens again give the same cache.

        Raises :class:`ablate.InvalidArgumentError` (``KV_CACHE_PROMPTS``, ``TAIL_EMPTY``) and
        :class:`ablate.ResourceExhaustedError` (``KV_CACHE_BUDGET``).
        """
        request = cache_pb2.CreateKvCacheRequest(
            model_id=self.id, prompts=encode_prompts(prefix, prepend_bos)
        )
        return KvCache(self.client, self.client._call("CreateKvCache", request).kv_cache)

    def kv_caches(self) -> list[KvCache]:
        """The KV caches of this model, in order of making."""
        return self.client.kv_caches(self)

    # --- graphs ---------------------------------------------------------------------------

    def graph(
        self,
        *,
        factorized: bool = True,
        separate_qkv: bool = True,
        seq_len: int | None = None,
        expand_kv_heads: bool = False,
        slice_output: SliceOutput = "last_seq",
        kv_caches: Sequence[KvCacheLike] = (),
        idle_timeout: float | None = None,
    ) -> Graph:
        """A graph over this model; it costs no weights.

        ``factorized``: every head and MLP reaches every input above it, each edge with a mask of its
        own. False: the residual stream node by node (Resid Mid, Resid Post), for node ablation.
        ``separate_qkv``: a destination for each of a head's query, key and value inputs; as in
        AutoCircuit, nothing that an unfactorized graph looks at.
        ``seq_len``: edges are token specific, and prompts must have this many tokens.
        ``expand_kv_heads``: grouped-query models get key and value destinations for each query head.
        ``kv_caches``: all passes, jobs and sweeps stand behind the longest of these that their prompts
        begin with; prompts are still given whole, and edges, ``seq_len`` and outputs are about the tail.
        ``idle_timeout``: the daemon deletes the graph when for so many seconds (1 to 86400) no call has
        named it and no job has run on it; None: it stays until it is deleted.

        Raises :class:`ablate.InvalidArgumentError` (``IDLE_TIMEOUT_INVALID``, ``GRAPH_OPTIONS``, ...).
        """
        options = common_pb2.GraphOptions(
            kind=common_pb2.GRAPH_KIND_FACTORIZED if factorized else common_pb2.GRAPH_KIND_SIMPLE,
            merge_qkv=factorized and not separate_qkv,
            seq_len=seq_len or 0,
            expand_kv_heads=expand_kv_heads,
            out_slice=out_slice(slice_output),
            kv_cache_ids=[kv_cache_id(cache) for cache in kv_caches if cache is not None],
        )
        request = graph_pb2.CreateGraphRequest(model_id=self.id, options=options)
        if idle_timeout is not None:
            request.idle_timeout_ms = round(1000 * idle_timeout) or -1  # zero would be none, and is refused
        return Graph(self, self.client._call("CreateGraph", request).graph)

    def graphs(self) -> list[Graph]:
        """The graphs that are over this model now."""
        request = graph_pb2.ListGraphsRequest(model_id=self.id)
        return [Graph(self, proto) for proto in self.client._pages("ListGraphs", request, "graphs")]

    # --- ablations ------------------------------------------------------------------------

    def create_ablation(
        self, /, source: Any, type: str = "tokenwise_mean_corrupt", **options: Any
    ) -> ResidentAblation:
        """Makes what ablated edges carry and keeps it on the daemon; end it with its ``delete``.

        ``source``: a dataset, as :meth:`Graph.prune_scores` takes it, or prompts (a list of texts, or
        ids ``[batch, pos]``). ``type``: an :class:`ablate.AblationType` or its name; ZERO needs nothing
        kept. Options, for datasets: ``clean`` (the clean prompts ablate, not the corrupt ones),
        ``prompt_count``, ``prepend_bos``; for both: ``batch_size`` (prompts a pass), ``progress``, and
        for passes behind a prefix ``tail_divergence`` or ``kv_cache``.
        """
        return create_ablation(self.client, self.id, source, type, **options)

    def src_ablations(self, sample: Any, ablation_type: str = "resample") -> Array:
        """AutoCircuit's ``src_ablations``: float32 ``[sources, batch, positions, d_model]``, Resid Start
        first. ``sample``: prompts, or a dataset, of which a mean has one row.
        """
        return src_ablations(self.client, self.id, sample, ablation_type)

    def unload(self) -> int:
        """Ends the resident model; returns the bytes given back.

        Raises :class:`ablate.FailedPreconditionError` (``MODEL_IN_USE``), which names the users. Lazy
        caches of this client do not count: what they have not fetched goes with the model.
        """
        self.client._lazy.end(self.id)
        request = model_pb2.UnloadModelRequest(model_id=self.id)
        response: model_pb2.UnloadModelResponse = self.client._call("UnloadModel", request)
        return response.freed_bytes

    def _request(
        self,
        input: Prompt,
        slice_output: SliceOutput,
        prepend_bos: bool | None,
        kv_cache: KvCacheLike,
    ) -> run_pb2.ForwardRequest:
        return run_pb2.ForwardRequest(
            model_id=self.id,
            prompts=encode_prompts(input, prepend_bos),
            out_slice=out_slice(slice_output),
            kv_cache_id=kv_cache_id(kv_cache),
        )
