# SPDX-License-Identifier: Apache-2.0
"""A graph over a resident model: its edges, its patch mask, patched passes, prune scores."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Iterator, Literal, Mapping, Sequence, Union

from ._ablation import (
    AblationType,
    EdgeCounts,
    PatchType,
    ResidentAblation,
    ablation_id,
    create_ablation,
)
from ._arrays import Array, Prompt, bos_policy, collect_chunks, encode_float, encode_prompts
from ._caches import KvCacheLike, kv_cache_id
from ._dataset import Dataset, DatasetLike
from ._enums import ablation_value, enum_value
from ._hooks import FwdHooks, GraphHooks, Indices, make_interventions
from ._interop import EapGraph, PathLike, from_eap_graph, load_scores, save_scores, to_eap_graph
from ._jobs import (
    Ablation,
    Algorithm,
    Job,
    PruneScores,
    PruneStream,
    follow,
    make_spec,
)
from ._masks import MaskModes
from ._measure import Evaluation
from ._model import Model, NamesFilter, SliceOutput, out_slice
from .v1 import common_pb2, evaluate_pb2, graph_pb2, mask_pb2, prune_pb2, run_pb2

Scores = Union[PruneScores, Job, str]
"""Scores by the job that made them."""
SizesLike = Union[Sequence[Union[int, float]], EdgeCounts, str, None]
"""Circuit sizes: a list of edge counts (ints) and shares of all edges (floats), or a rule."""

# Mask tensors in one request; below the daemon's limit of a message.
_MASK_REQUEST_BYTES = 8 << 20
_EDGES_A_REQUEST = 100_000


@dataclass(frozen=True)
class Node:
    """A node of a graph."""

    name: str
    """AutoCircuit's name: ``"A9.9"``, ``"A11.10.Q"``, ``"MLP 3"``, ``"Resid Start"``, ``"Resid Mid 3"``."""
    eap_name: str
    """EAP-IG's name: ``"a9.h9"``, ``"a11.h10<q>"``, ``"m3"``, ``"input"``; empty for Resid Mid and Post."""
    module_name: str
    """Where in the network: ``"blocks.9.attn.hook_result"``."""
    is_source: bool
    layer: int
    """AutoCircuit's layer: attention and MLP of a block are two layers."""
    head_idx: int | None
    src_idx: int | None


@dataclass(frozen=True)
class Wrapper:
    """A wrapped module: AutoCircuit's PatchWrapper, whose fields these are."""

    module_name: str
    """``"blocks.9.attn.hook_result"``, ``"blocks.9.hook_q_input"``."""
    is_src: bool
    is_dest: bool
    head_dim: int | None
    """The dimension that counts heads in the module's tensor."""
    seq_dim: int | None
    """The dimension that counts positions, in a token-specific graph."""
    src_idxs: slice | None = field(hash=False)
    """Its sources."""
    in_srcs: slice | None = field(hash=False)
    """The sources that it receives from."""
    mask_shape: tuple[int, ...] | None
    """Of its patch mask, ``[seq?, heads?, sources]``."""


@dataclass(frozen=True)
class Edge:
    """An edge of a graph."""

    name: str
    """``"A9.9->A11.10.Q"``, or in the asked dialect."""
    seq_idx: int | None
    """Token position in a token-specific graph, else None."""
    index: int
    """Index in canonical order."""
    module_name: str
    """The module whose tensor holds its mask and score."""
    patch_idx: tuple[int, ...]
    """Its element in that tensor: ``[seq?, head?, source]``."""

    def __str__(self) -> str:
        return self.name if self.seq_idx is None else f"[{self.seq_idx}]{self.name}"


EdgeKey = Union[str, Edge, tuple[str, int]]
"""An edge by name, as an :class:`Edge`, or as (name, token position)."""


class Graph(MaskModes, GraphHooks):
    """A graph, from :meth:`Model.graph`. Its topology never changes; its patch mask is its state.

    A mask of 1 means ablated, 0 kept; fractions interpolate. All masks start at 0.
    """

    def __init__(self, model: Model, proto: graph_pb2.Graph):
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
        self.modules: dict[str, tuple[int, ...]] = {m.name: tuple(m.shape) for m in proto.modules}
        """Destination module -> shape of its masks and scores, ``[seq?, heads?, sources]``."""
        self._edges: list[Edge] | None = None
        self._nodes: list[Node] | None = None

    def __repr__(self) -> str:
        return f"<ablate.Graph {self.id} over {self.model.name!r}: {self.edge_count} edges>"

    def _repr_html_(self) -> str:
        from ._html import graph

        return graph(self)

    # --- topology -----------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node]:
        """Sources in index order, then destinations."""
        if self._nodes is None:
            stream = self.client._call("ListNodes", graph_pb2.ListNodesRequest(graph_id=self.id))
            self._nodes = [
                Node(
                    name=node.name,
                    eap_name=node.eap_name,
                    module_name=node.module_name,
                    is_source=node.is_source,
                    layer=node.layer,
                    head_idx=None if node.head_idx < 0 else node.head_idx,
                    src_idx=None if node.src_idx < 0 else node.src_idx,
                )
                for message in stream
                for node in message.nodes
            ]
        return self._nodes

    @property
    def wrappers(self) -> list[Wrapper]:
        """The wrapped modules: sources in index order, then those that only receive."""
        response = self.client._call("ListWrappers", graph_pb2.ListWrappersRequest(graph_id=self.id))

        def span(begin: int, count: int) -> slice:
            return slice(begin, begin + count)

        return [
            Wrapper(
                module_name=w.module_name,
                is_src=w.is_src,
                is_dest=w.is_dest,
                head_dim=w.head_dim or None,
                seq_dim=w.seq_dim or None,
                src_idxs=span(w.src_begin, w.src_count) if w.is_src else None,
                in_srcs=span(w.in_src_begin, w.in_src_count) if w.is_dest else None,
                mask_shape=tuple(w.mask_shape) if w.is_dest else None,
            )
            for w in response.wrappers
        ]

    @property
    def src_wrappers(self) -> list[Wrapper]:
        """The wrapped modules that edges begin in."""
        return [wrapper for wrapper in self.wrappers if wrapper.is_src]

    @property
    def dest_wrappers(self) -> list[Wrapper]:
        """The wrapped modules that edges end in."""
        return [wrapper for wrapper in self.wrappers if wrapper.is_dest]

    @property
    def edges(self) -> list[Edge]:
        """All edges in canonical order: position, destination layer, q/k/v, head, source."""
        if self._edges is None:
            self._edges = list(self.iter_edges())
        return self._edges

    def iter_edges(
        self,
        source: str | None = None,
        destination: str | None = None,
        seq_idx: int | None = None,
        dialect: Literal["auto_circuit", "eap"] = "auto_circuit",
    ) -> Iterator[Edge]:
        """Streams edges from a source, into a destination, at a position; None means any.

        Raises :class:`ablate.NotFoundError` (``NODE_UNKNOWN``).
        """
        request = graph_pb2.ListEdgesRequest(
            graph_id=self.id,
            source=source or "",
            destination=destination or "",
            seq_number=0 if seq_idx is None else seq_idx + 1,
            dialect=enum_value(common_pb2.EdgeDialect, "EDGE_DIALECT_", dialect),
        )
        for message in self.client._call("ListEdges", request):
            for edge in message.edges:
                yield Edge(
                    name=edge.name,
                    seq_idx=edge.seq_number - 1 if edge.seq_number else None,
                    index=edge.index,
                    module_name=edge.module_name,
                    patch_idx=tuple(edge.patch_idx),
                )

    # --- masks --------------------------------------------------------------------------------

    def set_patch_mask(
        self, mask: Mapping[Any, Any] | float, *, reset_others: bool = False
    ) -> int:
        """Sets the mask, whole or in part; returns how many edges are masked now.

        ``mask`` is one number for every edge; or edges (:data:`EdgeKey`) with a number each; or module
        names with an array each, shaped as in :attr:`modules`, behind a leading dimension where the mask
        has rows for prompts (without it: every row). What is not named keeps its value; ``reset_others``
        sets it to 0.

        Raises :class:`ablate.InvalidArgumentError` (``EDGE_NOT_IN_GRAPH``, ``MASK_NOT_FINITE``,
        ``TENSOR_SHAPE``) and :class:`ablate.NotFoundError` (``NODE_UNKNOWN``); nothing is set then.
        """
        if isinstance(mask, Mapping):
            if mask and all(isinstance(k, str) and "->" not in k for k in mask):
                return self._set_modules(mask, reset_others)
            return self._set_edges(mask, reset_others)
        return self._set(mask_pb2.SetPatchMaskRequest(graph_id=self.id, all=float(mask)))

    def set_circuit(
        self,
        scores: Scores,
        *,
        edge_count: int | None = None,
        threshold: float | None = None,
        patch_type: str | PatchType = "tree_patch",
    ) -> int:
        """Masks a circuit: the ``edge_count`` edges of largest |score|, or those at or above
        ``threshold``. ``tree_patch`` masks all other edges, ``edge_patch`` these.
        """
        if (edge_count is None) == (threshold is None):
            raise ValueError("give edge_count or threshold")
        circuit = mask_pb2.CircuitMask(
            job_id=job_id_of(scores),
            patch_type=enum_value(common_pb2.PatchType, "PATCH_TYPE_", patch_type),
        )
        if edge_count is not None:
            circuit.edge_count = edge_count
        elif threshold is not None:
            circuit.threshold = float(threshold)
        return self._set(mask_pb2.SetPatchMaskRequest(graph_id=self.id, circuit=circuit))

    def get_patch_mask(self) -> dict[str, Array]:
        """The mask: float32 arrays by module, shaped as in :attr:`modules`."""
        stream = self.client._call("GetPatchMask", mask_pb2.GetPatchMaskRequest(graph_id=self.id))
        return dict(collect_chunks((message.chunk for message in stream), self.client.arrays))

    def reset_patch_mask(self) -> None:
        """Sets every mask value to 0."""
        self.client._call("ResetPatchMask", mask_pb2.ResetPatchMaskRequest(graph_id=self.id))

    @contextlib.contextmanager
    def patched(self, mask: Mapping[Any, Any] | float) -> Iterator["Graph"]:
        """Sets a mask for the length of a ``with`` block (all else 0), then restores the old one."""
        before = self.get_patch_mask()
        self.set_patch_mask(mask, reset_others=True)
        try:
            yield self
        finally:
            self.set_patch_mask(before)

    def _set_edges(self, mask: Mapping[EdgeKey, float], reset_others: bool) -> int:
        values = edge_values(mask)
        masked = 0
        for start in range(0, max(len(values), 1), _EDGES_A_REQUEST):
            edges = mask_pb2.EdgeMask(
                edges=values[start : start + _EDGES_A_REQUEST],
                reset_others=reset_others and start == 0,
            )
            masked = self._set(mask_pb2.SetPatchMaskRequest(graph_id=self.id, edges=edges))
        return masked

    def _set_modules(self, mask: Mapping[str, Array], reset_others: bool) -> int:
        if reset_others and any(name not in mask for name in self.modules):
            self._set(mask_pb2.SetPatchMaskRequest(graph_id=self.id, all=0.0))
        masked, part, size = 0, mask_pb2.ModuleMask(), 0
        last = len(mask) - 1
        for position, (name, array) in enumerate(mask.items()):
            tensor = mask_pb2.NamedTensor(name=name, tensor=encode_float(array))
            size += len(tensor.tensor.data)
            part.tensors.append(tensor)
            if size > _MASK_REQUEST_BYTES or position == last:
                masked = self._set(mask_pb2.SetPatchMaskRequest(graph_id=self.id, modules=part))
                part, size = mask_pb2.ModuleMask(), 0
        return masked

    def _set(self, request: mask_pb2.SetPatchMaskRequest) -> int:
        response: mask_pb2.SetPatchMaskResponse = self.client._call("SetPatchMask", request)
        return response.masked_edge_count

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
        return self.model._forward(request)

    __call__ = forward

    def run_with_hooks(
        self, input: Prompt, fwd_hooks: FwdHooks = None, *, seed: int = 0, **options: Any
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
        return self.model._forward(request)

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
        return self.model._run_with_cache(
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
            request.out_slice = out_slice(slice_output)
        if ablation is not None or ablation_input is not None:
            request.ablation.type = ablation_value(ablation)
            request.ablation.ablation_id = ablation_id(ablation)
            if ablation_input is not None:
                request.ablation.prompts.CopyFrom(encode_prompts(ablation_input, prepend_bos))
        return request

    # --- prune scores ---------------------------------------------------------------------------

    def submit(
        self,
        dataset: DatasetLike,
        algo: str | Algorithm = "eap",
        *,
        batch_size: int | None = None,
        prompt_count: int | None = None,
        prepend_bos: bool | None = None,
        tail_divergence: bool = False,
        top_k: int = 10,
    ) -> Job:
        """Queues a job and returns at once; follow it with :meth:`Job.watch`."""
        spec = self._spec(
            dataset, algo, batch_size, prompt_count, prepend_bos, tail_divergence, top_k
        )
        return Job(self.client, self.client._call("SubmitJob", prune_pb2.SubmitJobRequest(spec=spec)).job)

    def stream_prune_scores(
        self,
        dataset: DatasetLike,
        algo: str | Algorithm = "eap",
        *,
        batch_size: int | None = None,
        prompt_count: int | None = None,
        prepend_bos: bool | None = None,
        tail_divergence: bool = False,
        top_k: int = 10,
    ) -> PruneStream:
        """Partial results while the scores form: an iterator of :class:`JobEvent`.

        Leaving the loop's ``with`` block cancels the job on the daemon. Options as in
        :meth:`prune_scores`.
        """
        spec = self._spec(
            dataset, algo, batch_size, prompt_count, prepend_bos, tail_divergence, top_k
        )
        request = prune_pb2.StreamPruneScoresRequest(spec=spec)
        return PruneStream(self.client, self.client._call("StreamPruneScores", request))

    def prune_scores(
        self,
        dataset: DatasetLike,
        algo: str | Algorithm = "eap",
        *,
        batch_size: int | None = None,
        prompt_count: int | None = None,
        prepend_bos: bool | None = None,
        tail_divergence: bool = False,
        top_k: int = 10,
        progress: bool = True,
    ) -> PruneScores:
        """A score for every edge: a dict of arrays, named and shaped as AutoCircuit's PruneScores.

        ``dataset``: a :class:`Dataset`, or a path, dict or JSON text in AutoCircuit's format.
        ``algo``: ``"eap"``, ``"mask_gradient"``, ``"ground_truth"``, ``"random"``,
        ``"activation_magnitude"``, ``"eap_ig"``, ``"acdc"``, ``"subnetwork_probing"``, or one of their
        classes with options (:class:`CircuitProbing` has no defaults). ``batch_size``: prompts a batch
        (None: 8). ``prompt_count``: only the first prompts of the dataset.
        ``tail_divergence``: the prefix that all prompts share is run once; scores cover the tails.

        Ctrl-C cancels the job on the daemon; the KeyboardInterrupt says where its scores so far are.
        Raises :class:`ablate.InvalidArgumentError` for prompts of unequal length and answers that
        are not one token, :class:`ablate.ResourceExhaustedError` for a full queue.
        """
        with self.stream_prune_scores(
            dataset,
            algo,
            batch_size=batch_size,
            prompt_count=prompt_count,
            prepend_bos=prepend_bos,
            tail_divergence=tail_divergence,
            top_k=top_k,
        ) as stream:
            follow(stream.job, iter(stream), progress)
            return stream.scores

    def _spec(
        self,
        dataset: DatasetLike,
        algo: str | Algorithm,
        batch_size: int | None,
        prompt_count: int | None,
        prepend_bos: bool | None,
        tail_divergence: bool,
        top_k: int,
    ) -> prune_pb2.PruneJobSpec:
        if not isinstance(dataset, Dataset):
            dataset = self.client.upload_dataset(dataset)
        return make_spec(
            self.id,
            dataset.id,
            algo,
            batch_size=batch_size,
            prompt_count=prompt_count,
            prepend_bos=prepend_bos,
            tail_divergence=tail_divergence,
            top_k=top_k,
        )

    # --- scores from elsewhere --------------------------------------------------------------------

    def upload_scores(
        self, scores: Mapping[Any, Any], *, origin: str = "", prepend_bos: bool | None = None
    ) -> PruneScores:
        """Keeps scores on the daemon, so that circuits of them can be run, masked, measured.

        ``scores``: module names with an array each (a PruneScores, AutoCircuit's included; a module
        that is missing scores 0), or edges (:data:`EdgeKey`) with a number each. ``origin``: where they
        come from, for listings. ``prepend_bos``: how prompts are tokenized when they are used.

        Raises :class:`ablate.InvalidArgumentError` (``SCORES_NOT_FINITE`` for a NaN, ``TENSOR_SHAPE``,
        ``EDGE_NOT_IN_GRAPH``) and :class:`ablate.NotFoundError` (``NODE_UNKNOWN``, ``MODULE_UNKNOWN``).
        """
        if scores and all(isinstance(key, str) and "->" not in key for key in scores):
            tensors = [
                mask_pb2.NamedTensor(name=name, tensor=encode_float(array)) for name, array in scores.items()
            ]
            return self._create_scores(origin, prepend_bos, modules=prune_pb2.ModuleScores(tensors=tensors))
        edges = prune_pb2.EdgeScores(edges=edge_values(scores))
        return self._create_scores(origin, prepend_bos, edges=edges)

    def load_scores(self, path: PathLike, *, prepend_bos: bool | None = None) -> PruneScores:
        """Uploads a file of scores: safetensors with AutoCircuit's names, or the graph JSON of EAP-IG
        and MIB (``.json``), whose ``in_graph`` :meth:`read_eap_graph` has, too."""
        if os.fspath(path).endswith(".json"):
            arrays = self.read_eap_graph(path).scores
        else:
            arrays = load_scores(path)
        return self.upload_scores(arrays, origin=Path(path).name, prepend_bos=prepend_bos)

    def save_scores(self, scores: PruneScores, path: PathLike) -> None:
        """Writes scores as safetensors, or, by the ending ``.json``, as a graph file of EAP-IG and MIB
        with every edge in the graph; :meth:`eap_graph` takes a mask."""
        if os.fspath(path).endswith(".json"):
            self.eap_graph(scores).save(path)
        else:
            save_scores(scores, path, {"job": scores.job.id})

    def eap_graph(
        self, scores: Mapping[str, Array], mask: Mapping[str, Array] | None = None
    ) -> EapGraph:
        """Scores as a graph file of EAP-IG and MIB; ``mask`` (1 = ablated, as :meth:`get_patch_mask`
        gives it): edges that are not ``in_graph``."""
        return to_eap_graph(self, scores, mask)

    def read_eap_graph(self, source: PathLike | Mapping[str, Any]) -> EapGraph:
        """Reads a graph file of EAP-IG or MIB (a path, or its content): scores, mask, nodes. A file of
        another model is refused, saying which fields of its ``cfg`` differ."""
        return from_eap_graph(self, source)

    def new_prune_scores(self, init_val: float = 0.0) -> PruneScores:
        """The same score for every edge, as AutoCircuit's method."""
        return self._create_scores("new_prune_scores", None, init_val=float(init_val))

    def circuit_prune_scores(
        self,
        edges: Iterable[EdgeKey] | None = None,
        edge_dict: Mapping[EdgeKey, float] | None = None,
        bool: bool = False,
    ) -> PruneScores:
        """1 (or True) for these edges, or the dict's values, and 0 for all others: AutoCircuit's
        method. Names work in ``edge_dict``, too; a name that is no edge of the graph is an error."""
        if (edges is None) == (edge_dict is None):
            raise ValueError("give edges or edge_dict")
        values = dict.fromkeys(edges, 1.0) if edges is not None else edge_dict or {}
        made = prune_pb2.EdgeScores(edges=edge_values(values))
        scores = self._create_scores("circuit_prune_scores", None, edges=made)
        if bool:
            for name, array in scores.items():
                scores[name] = array != 0
        return scores

    def current_patch_masks_as_prune_scores(self) -> PruneScores:
        """The patch mask as it is now, as scores: AutoCircuit's method."""
        return self._create_scores("current_patch_masks_as_prune_scores", None, current_mask=True)

    def _create_scores(self, origin: str, prepend_bos: bool | None, **scores: Any) -> PruneScores:
        request = prune_pb2.CreatePruneScoresRequest(
            graph_id=self.id, origin=origin, bos=bos_policy(prepend_bos), **scores
        )
        return Job(self.client, self.client._call("CreatePruneScores", request).job).scores()

    # --- ablations ------------------------------------------------------------------------------

    def create_ablation(
        self, source: Any, type: str | AblationType = AblationType.TOKENWISE_MEAN_CORRUPT, **options: Any
    ) -> ResidentAblation:
        """As :meth:`Model.create_ablation`, of this graph's model."""
        return create_ablation(self.client, self.model.id, source, type, **options)

    # --- circuits -------------------------------------------------------------------------------

    def run_circuits(
        self, scores: Scores, edge_counts: SizesLike = None, **options: Any
    ) -> dict[int, Array]:
        """As :meth:`Client.run_circuits`."""
        return self.client.run_circuits(scores, edge_counts, **options)

    def evaluate(
        self,
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


def edge_values(values: Mapping[EdgeKey, float]) -> list[common_pb2.EdgeValue]:
    """Edges and their numbers for a message."""
    out = []
    for key, value in values.items():
        if isinstance(key, Edge):
            key = (key.name, key.seq_idx) if key.seq_idx is not None else key.name
        name, seq_number = (key[0], key[1] + 1) if isinstance(key, tuple) else (key, 0)
        out.append(common_pb2.EdgeValue(edge=name, seq_number=seq_number, value=float(value)))
    return out


def job_id_of(scores: Scores) -> str:
    """The job behind scores."""
    if isinstance(scores, PruneScores):
        return scores.job.id
    return scores.id if isinstance(scores, Job) else scores


def _sizes(
    edge_counts: SizesLike,
    true_edge_count: int | None,
    zero_edges: bool | None,
    all_edges: bool | None,
) -> tuple[Sequence[int], run_pb2.EdgeCounts | None]:
    """Whole numbers as a list, and rules and shares, which AutoCircuit's edge_counts_util is about."""
    ends = {None: run_pb2.EDGE_COUNTS_END_UNSPECIFIED, True: run_pb2.EDGE_COUNTS_END_ADD}
    sizes = run_pb2.EdgeCounts(
        true_edge_count=true_edge_count or 0,
        zero=ends.get(zero_edges, run_pb2.EDGE_COUNTS_END_REMOVE),
        all=ends.get(all_edges, run_pb2.EDGE_COUNTS_END_REMOVE),
    )
    whole: list[int] = []
    if isinstance(edge_counts, str):
        sizes.kind = enum_value(run_pb2.EdgeCountsKind, "EDGE_COUNTS_KIND_", edge_counts)
    else:
        for count in edge_counts or ():
            if isinstance(count, float):
                sizes.shares.append(count)
            else:
                whole.append(int(count))
    return whole, sizes if sizes.ByteSize() else None


def make_sweep(
    scores: Scores,
    *,
    dataset_id: str,
    edge_counts: SizesLike,
    patch_type: str | PatchType,
    ablation: Ablation,
    reverse_clean_corrupt: bool,
    signed_scores: bool = False,
    batch_size: int | None,
    prompt_count: int | None,
    tail_divergence: bool = False,
    true_edge_count: int | None = None,
    zero_edges: bool | None = None,
    all_edges: bool | None = None,
) -> run_pb2.CircuitSweep:
    """The protocol's sweep."""
    whole, sizes = _sizes(edge_counts, true_edge_count, zero_edges, all_edges)
    return run_pb2.CircuitSweep(
        job_id=job_id_of(scores),
        dataset_id=dataset_id,
        edge_counts=whole,
        sizes=sizes,
        ablation_id=ablation_id(ablation),
        patch_type=enum_value(common_pb2.PatchType, "PATCH_TYPE_", patch_type),
        ablation_type=ablation_value(ablation),
        reverse_clean_corrupt=reverse_clean_corrupt,
        signed_scores=signed_scores,
        batch_size=batch_size or 0,
        prompt_count=prompt_count or 0,
        tail_divergence=tail_divergence,
    )


def metric_values(metrics: Sequence[str] | None) -> list[evaluate_pb2.Metric]:
    """The protocol's numbers for metrics by name."""
    return [enum_value(evaluate_pb2.Metric, "METRIC_", name) for name in metrics or ()]
