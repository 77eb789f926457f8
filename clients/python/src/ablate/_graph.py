# SPDX-License-Identifier: Apache-2.0
"""A graph over a resident model: its edges, its patch mask, patched passes, prune scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Sequence

from . import _passes
from ._ablation import AblationType, ResidentAblation, ablation_id, create_ablation
from ._algorithms import Ablation
from ._arrays import Array, Prompt, encode_prompts
from ._caches import KvCacheLike, kv_cache_id
from ._enums import ablation_value
from ._hooks import FwdHooks, GraphHooks, Indices, make_interventions
from ._jobs import Scores
from ._masks import MaskModes
from ._measure import Evaluation
from ._passes import NamesFilter, SliceOutput
from ._patch_mask import PatchMask
from ._scores import GraphScores
from ._sweep import SizesLike
from .v1 import common_pb2, graph_pb2, run_pb2

if TYPE_CHECKING:
    from ._model import Model


class Graph(GraphScores, PatchMask, MaskModes, GraphHooks):
    """A graph, from :meth:`Model.graph`. Its topology never changes; its patch mask is its state.

    A mask of 1 means ablated, 0 kept; fractions interpolate. All masks start at 0. Calls raise
    :class:`ablate.NotFoundError` (``GRAPH_UNKNOWN``) once it is deleted.
    """

    def __init__(self, model: "Model", proto: graph_pb2.Graph):
        self.model = model
        self.client = model.client
        self.id: str = proto.graph_id
        """The handle."""
        self.edge_count: int = proto.edge_count
        """Number of edges, all positions counted."""
        self.seq_len: int | None = proto.options.seq_len or None
        """Token positions, if edges are token specific."""
        self.is_factorized: bool = proto.options.kind != common_pb2.GRAPH_KIND_SIMPLE
        """False for a graph of the residual stream's nodes."""
        self.separate_qkv: bool = not proto.options.merge_qkv
        self.expand_kv_heads: bool = proto.options.expand_kv_heads
        self.kv_cache_ids: tuple[str, ...] = tuple(proto.options.kv_cache_ids)
        """KV caches that its passes stand behind, by handle."""
        self.idle_timeout: float | None = proto.idle_timeout_ms / 1000 or None
        """Seconds after which the daemon deletes it if nobody names it; None: it stays."""
        self.modules: dict[str, tuple[int, ...]] = {m.name: tuple(m.shape) for m in proto.modules}
        """Destination module -> shape of its masks and scores, ``[seq?, heads?, sources]``."""

    def __repr__(self) -> str:
        return f"<ablate.Graph {self.id} over {self.model.name!r}: {self.edge_count} edges>"

    def _repr_html_(self) -> str:
        from ._html import graph

        return graph(self)

    # --- passes -------------------------------------------------------------------------------

    def forward(
        self,
        input: Prompt,
        *,
        ablation: Ablation | None = None,
        ablation_input: Prompt | None = None,
        slice_output: SliceOutput | Literal["graph"] = "graph",
        prepend_bos: bool | None = None,
        kv_cache: KvCacheLike = None,
        seed: int = 0,
    ) -> Array:
        """Logits of a pass in which masked edges carry an ablation: float32 ``[batch, d_vocab]``, or
        with positions as ``slice_output`` says (``"graph"``: as the graph was made).

        ``ablation`` ``"resample"`` takes the activations of ``ablation_input``, prompts of the same
        shape, and a mean of any type is over all of these; ``"zero"`` takes none, nor does a resident
        ablation. Without either, the plain model runs. ``kv_cache``: prompts, those of
        ``ablation_input`` too, begin with its tokens, and the pass covers what is behind them.
        ``seed``: what random masks (:meth:`set_mask_fn`) are drawn from.
        """
        request = self._request(
            input, ablation, ablation_input, slice_output, prepend_bos, kv_cache
        )
        request.seed = seed
        if self._trained is not None and request.HasField("ablation"):
            return self._trained.forward(request)
        return _passes.forward(self.model, request)

    __call__ = forward

    def run_with_hooks(
        self, /, input: Prompt, fwd_hooks: FwdHooks = None, *, seed: int = 0, **options: Any
    ) -> Array:
        """As :meth:`Model.run_with_hooks`, of the patched pass; the graph's own hooks come first.
        ``options`` as :meth:`forward`.
        """
        request = self._request(
            input,
            options.pop("ablation", None),
            options.pop("ablation_input", None),
            options.pop("slice_output", "graph"),
            options.pop("prepend_bos", None),
            options.pop("kv_cache", None),
        )
        if options:
            raise TypeError(f"run_with_hooks has no option {sorted(options)}")
        request.seed = seed
        request.interventions.extend(make_interventions(fwd_hooks))
        return _passes.forward(self.model, request)

    def run_with_cache(
        self,
        input: Prompt,
        names_filter: NamesFilter = None,
        *,
        ablation: Ablation | None = None,
        ablation_input: Prompt | None = None,
        pos_slice: Any = None,
        heads: Indices = None,
        rows: Indices = None,
        stop_at_layer: int | None = None,
        incl_bwd: bool = False,
        gradient_of: Any = "loss",
        keep_on_server: bool = False,
        fwd_hooks: FwdHooks = None,
        per_head_inputs: bool = False,
        slice_output: SliceOutput | Literal["graph"] = "graph",
        prepend_bos: bool | None = None,
        kv_cache: KvCacheLike = None,
        remove_batch_dim: bool = False,
        seed: int = 0,
    ) -> tuple[Array | None, Any]:
        """As :meth:`Model.run_with_cache`, of the patched pass; the graph's own hooks come first.

        Hook points show what AutoCircuit's would: the input of a destination as patched, the output of
        a source as it is emitted. Heads have inputs of their own, so ``ln1`` has a head axis.
        """
        request = self._request(
            input, ablation, ablation_input, slice_output, prepend_bos, kv_cache
        )
        request.seed = seed
        return _passes.run_with_cache(
            self.model,
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

    def _pass_request(
        self,
        input: Prompt,
        seed: int,
        *,
        ablation: Ablation | None = None,
        ablation_input: Prompt | None = None,
        prepend_bos: bool | None = None,
        kv_cache: KvCacheLike = None,
        **unknown: Any,
    ) -> run_pb2.ForwardRequest:
        if unknown:
            raise TypeError(f"mask_backward() got an unexpected keyword argument {next(iter(unknown))!r}")
        request = self._request(input, ablation, ablation_input, "last_seq", prepend_bos, kv_cache)
        request.seed = seed
        return request

    def _request(
        self,
        input: Prompt,
        ablation: Ablation | None,
        ablation_input: Prompt | None,
        slice_output: SliceOutput | Literal["graph"],
        prepend_bos: bool | None,
        kv_cache: KvCacheLike,
    ) -> run_pb2.ForwardRequest:
        request = run_pb2.ForwardRequest(
            graph_id=self.id,
            prompts=encode_prompts(input, prepend_bos),
            kv_cache_id=kv_cache_id(kv_cache),
        )
        if slice_output != "graph":
            request.out_slice = _passes.out_slice(slice_output)
        if ablation is not None or ablation_input is not None:
            request.ablation.type = ablation_value(ablation)
            request.ablation.ablation_id = ablation_id(ablation)
            if ablation_input is not None:
                request.ablation.prompts.CopyFrom(encode_prompts(ablation_input, prepend_bos))
        return request

    # --- ablations ------------------------------------------------------------------------------

    def create_ablation(
        self, /, source: Any, type: str | AblationType = AblationType.TOKENWISE_MEAN_CORRUPT, **options: Any
    ) -> ResidentAblation:
        """As :meth:`Model.create_ablation`, of this graph's model."""
        return create_ablation(self.client, self.model.id, source, type, **options)

    # --- circuits -------------------------------------------------------------------------------

    def run_circuits(
        self, /, scores: Scores, edge_counts: SizesLike = None, **options: Any
    ) -> dict[int, Array]:
        """As :meth:`Client.run_circuits`."""
        return self.client.run_circuits(scores, edge_counts, **options)

    def evaluate(
        self,
        /,
        scores: Scores,
        edge_counts: SizesLike = None,
        metrics: Sequence[str] | None = None,
        **options: Any,
    ) -> Evaluation:
        """As :meth:`Client.evaluate`."""
        return self.client.evaluate(scores, edge_counts, metrics, **options)

    def delete(self) -> None:
        """Ends the graph. Raises :class:`ablate.FailedPreconditionError` (``GRAPH_IN_USE``)."""
        self.client._call("DeleteGraph", graph_pb2.DeleteGraphRequest(graph_id=self.id))
