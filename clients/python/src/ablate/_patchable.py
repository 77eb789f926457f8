# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's PatchableModel, over a model and a graph that live on the daemon.

Attributes and methods have the names, results and defaults of ``auto_circuit.utils.patchable_model``
(1.0.1). What differs, and why, is in docs/autocircuit.md.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Collection, Iterator, Mapping, NoReturn, Sequence, TypeVar

from ._algorithms import Ablation
from ._arrays import Array, Prompt
from ._caches import KvCache, KvCacheLike
from ._graph import Graph
from ._jobs import PruneScores
from ._loss import Output, ReturnType, next_token_loss
from ._model import Model
from ._passes import SliceOutput
from ._topology import Wrapper

if TYPE_CHECKING:
    from ._parameters import Blocks


@dataclass(frozen=True)
class Node:
    """A node of the computation graph."""

    name: str
    """``"A9.9"``, ``"A11.10.Q"``, ``"MLP 3"``, ``"Resid Start"``."""
    module_name: str
    """The wrapped module that it is in."""
    layer: int
    """Attention and MLP of a block are two layers."""
    head_idx: int | None = None
    head_dim: int | None = None
    """The dimension that counts heads in the module's tensor."""
    weight: str | None = None
    """The parameter that the node is made of: ``"blocks.9.attn.W_O"``."""
    weight_head_dim: int | None = None
    """The dimension that counts heads in the parameter."""

    def module(self, model: Any) -> NoReturn:
        """Raises NotImplementedError: AutoCircuit's wrapper is a module, and modules are on the daemon."""
        raise NotImplementedError(
            f"{self.module_name!r} is a module on the daemon and cannot be had here; model.wrappers says its shape, "
            "model.patch_masks and model.set_patch_masks are its mask, model.run_with_cache its activations"
        )

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class SrcNode(Node):
    """A node that edges begin in."""

    src_idx: int = 0


@dataclass(frozen=True)
class DestNode(Node):
    """A node that edges end in."""

    min_src_idx: int = 0
    """The first source that it receives from."""


@dataclass(frozen=True)
class Edge:
    """A directed edge, at one token position or (``seq_idx`` None) at all of them."""

    src: SrcNode
    dest: DestNode
    seq_idx: int | None = None

    @property
    def name(self) -> str:
        """``"A9.9->A11.10.Q"``."""
        return f"{self.src.name}->{self.dest.name}"

    @property
    def patch_idx(self) -> tuple[int | None, ...]:
        """Its element in the mask of its destination's module: ``[seq?, head?, source]``."""
        seq = () if self.seq_idx is None else (self.seq_idx,)
        head = () if self.dest.head_idx is None else (self.dest.head_idx,)
        return (*seq, *head, self.src.src_idx - self.dest.min_src_idx)

    def patch_mask(self, model: "PatchableModel") -> Array:
        """The mask of its destination's module, as it is now: a copy. Masks are set by
        :meth:`PatchableModel.set_patch_masks`."""
        return model.patch_masks[self.dest.module_name]

    def prune_score(self, prune_scores: Mapping[str, Array]) -> Any:
        """Its element of scores."""
        return prune_scores[self.dest.module_name][self.patch_idx]

    def __str__(self) -> str:
        return self.name if self.seq_idx is None else f"[{self.seq_idx}]{self.name}"


class KvCaches(Mapping[int, KvCache]):
    """``kv_caches[batch_size]``: one cache of the daemon serves batches of any size, so every positive
    number is found. Iteration has one key, 1: the rows that are kept."""

    def __init__(self, caches: Sequence[KvCache]):
        self._caches = tuple(caches)

    def __getitem__(self, batch_size: int) -> KvCache:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise KeyError(batch_size)
        return self._caches[0]

    def __iter__(self) -> Iterator[int]:
        return iter((1,))

    def __len__(self) -> int:
        return 1


class Tokenizer:
    """The model's tokenizer, which runs on the daemon; the few calls that notebooks make of one."""

    def __init__(self, model: Model):
        self._model = model

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def vocab_size(self) -> int:
        """Ids that the model embeds."""
        return self._model.cfg.d_vocab

    @property
    def bos_token_id(self) -> int:
        """The id that ``prepend_bos=True`` puts in front. Raises :class:`ablate.FailedPreconditionError`
        for a tokenizer that has none."""
        return int(self._model.to_tokens("", True)[0][0])

    @property
    def bos_token(self) -> str:
        """Its text: ``"<|endoftext|>"``."""
        return self._model.to_single_str_token(self.bos_token_id)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"the tokenizer runs on the daemon and has no {name!r} here; it has "
            f"{', '.join(known for known in dir(type(self)) if not known.startswith('_'))}"
        )

    def __call__(self, text: str | Sequence[str]) -> dict[str, list[Any]]:
        """``{"input_ids": ...}``, without a BOS, as Hugging Face's GPT-2 tokenizer does it."""
        if isinstance(text, str):
            return {"input_ids": self.encode(text)}
        return {"input_ids": [self.encode(one) for one in text]}

    def encode(self, text: str) -> list[int]:
        """Token ids, without a BOS."""
        return [int(i) for i in self._model.to_tokens(text, prepend_bos=False)[0]]

    def decode(self, token_ids: Any) -> str:
        """Token ids to text."""
        ids = [int(i) for i in token_ids] if hasattr(token_ids, "__iter__") else [int(token_ids)]
        text: str = self._model.to_string([ids])[0]
        return text

    def tokenize(self, text: str) -> list[str]:
        """The text of each token."""
        return self._model.to_str_tokens(text, prepend_bos=False)


class PatchableModel:
    """A model on the daemon that can be ablated along single edges; made by :func:`patchable_model`.

    The weights are shared by all who use them; masks, hooks and patch mode are this object's own.
    """

    def __init__(self, model: Model, graph: Graph, slice_output: SliceOutput, kv_caches: Sequence[KvCache]):
        self.wrapped_model = model
        """The model on the daemon."""
        self.graph = graph
        """The graph on the daemon."""
        self.is_factorized: bool = graph.is_factorized
        self.is_transformer: bool = model.cfg.is_transformer
        self.separate_qkv: bool | None = graph.separate_qkv if self.is_transformer else None
        self.seq_dim: int = 1
        self.seq_len: int | None = graph.seq_len
        self.n_edges: int = graph.edge_count
        last: tuple[Any, ...] = {"last_seq": (slice(None), -1), "not_first_seq": (slice(None), slice(1, None))}.get(
            slice_output or "", (slice(None),)
        )
        self.out_slice: tuple[Any, ...] = last
        """Index of the output that the task is about: ``model(tokens)[model.out_slice]``."""
        self.kv_caches: KvCaches | None = KvCaches(kv_caches) if kv_caches else None
        self._slice_output = slice_output
        self._patch: dict[str, Any] | None = None
        self._topology: _Topology | None = None

    # --- the graph ------------------------------------------------------------------------------

    @property
    def _nodes(self) -> "_Topology":
        if self._topology is None:
            self._topology = _Topology(self.graph)
        return self._topology

    @property
    def srcs(self) -> set[SrcNode]:
        """All sources."""
        return set(self._nodes.srcs)

    @property
    def dests(self) -> set[DestNode]:
        """All destinations."""
        return set(self._nodes.dests)

    @property
    def nodes(self) -> set[Node]:
        """Sources and destinations."""
        return {*self._nodes.srcs, *self._nodes.dests}

    @property
    def edge_dict(self) -> dict[int | None, list[Edge]]:
        """Token position (None in a graph without positions) -> its edges, in canonical order."""
        return self._nodes.edge_dict

    @property
    def edge_name_dict(self) -> dict[int | None, dict[str, Edge]]:
        """Token position -> name -> edge."""
        return {seq: {edge.name: edge for edge in edges} for seq, edges in self.edge_dict.items()}

    @property
    def edges(self) -> set[Edge]:
        """All edges."""
        return {edge for edges in self.edge_dict.values() for edge in edges}

    @property
    def wrappers(self) -> set[Wrapper]:
        """The wrapped modules."""
        return set(self._nodes.wrappers)

    @property
    def src_wrappers(self) -> set[Wrapper]:
        """The wrapped modules that are sources."""
        return {wrapper for wrapper in self._nodes.wrappers if wrapper.is_src}

    @property
    def dest_wrappers(self) -> set[Wrapper]:
        """The wrapped modules that are destinations."""
        return {wrapper for wrapper in self._nodes.wrappers if wrapper.is_dest}

    @property
    def patch_masks(self) -> dict[str, Array]:
        """The masks by destination module, as they are now: copies, ``[seq?, heads?, sources]``."""
        return self.graph.get_patch_mask()

    def set_patch_masks(self, masks: Mapping[Any, Any] | float) -> int:
        """Sets masks by edge (:class:`Edge` or name), by module, or all to one value; returns how many
        edges are masked now."""
        if isinstance(masks, Mapping):
            masks = {edge_key(key): value for key, value in masks.items()}
        return self.graph.set_patch_mask(masks)

    # --- prune scores ----------------------------------------------------------------------------

    def new_prune_scores(self, init_val: float = 0.0) -> PruneScores:
        """Scores that are all ``init_val``."""
        return self.graph.new_prune_scores(init_val)

    def circuit_prune_scores(
        self,
        edges: Collection[Edge | str] | None = None,
        edge_dict: Mapping[Edge, float] | Mapping[str, float] | None = None,
        bool: bool = False,
    ) -> PruneScores:
        """1 for ``edges``, or the values of ``edge_dict``, by edge or name, and 0 elsewhere."""
        if edges is not None:
            return self.graph.circuit_prune_scores([edge_key(edge) for edge in edges], bool=bool)
        values = None if edge_dict is None else {edge_key(edge): value for edge, value in edge_dict.items()}
        return self.graph.circuit_prune_scores(edge_dict=values, bool=bool)

    def current_patch_masks_as_prune_scores(self) -> PruneScores:
        """The masks as they are now, as scores."""
        return self.graph.current_patch_masks_as_prune_scores()

    # --- passes -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def patch_mode(
        self, ablation: Ablation = "resample", ablation_input: Prompt | None = None, **options: Any
    ) -> Iterator["PatchableModel"]:
        """Passes in this ``with`` block carry ``ablation`` along masked edges, as :meth:`Graph.forward`;
        afterwards they are the plain model's. The masks stay, as with AutoCircuit's function."""
        before, self._patch = self._patch, {"ablation": ablation, "ablation_input": ablation_input, **options}
        try:
            yield self
        finally:
            self._patch = before

    def forward(
        self,
        input: Prompt,
        return_type: ReturnType = "logits",
        loss_per_token: bool = False,
        *,
        stop_at_layer: int | None = None,
        past_kv_cache: KvCacheLike = None,
        **options: Any,
    ) -> Any:
        """Logits at every position, ``[batch, seq, d_vocab]``; ``[self.out_slice]`` is the task's part.
        With ``kv_caches`` the positions behind the cached prefix.

        ``return_type``, as TransformerLens's: ``"loss"``, the mean next-token loss (``loss_per_token``:
        ``[batch, seq - 1]``), ``"both"`` or None. ``stop_at_layer``: the residual stream before that
        layer instead, ``[batch, seq, d_model]``; only blocks below it run. ``past_kv_cache``: the prefix
        that prompts begin with, instead of ``kv_caches``. Others as :meth:`Graph.forward`. Raises
        ValueError for a return type that there is not.
        """
        options = {**(self._patch or {}), "kv_cache": past_kv_cache, **options}
        if stop_at_layer is not None:
            return self._residual(input, stop_at_layer, options)
        logits = self.graph.forward(input, slice_output=None, **options)
        return self._returned(logits, input, return_type, loss_per_token, options)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """As :meth:`forward`."""
        return self.forward(*arguments, **options)

    def run_with_cache(
        self,
        input: Prompt,
        names_filter: Any = None,
        *,
        return_type: ReturnType = "logits",
        loss_per_token: bool = False,
        return_cache_object: bool = True,
        past_kv_cache: KvCacheLike = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        """(what :meth:`forward` returns, activations by hook point), as :meth:`Graph.run_with_cache`;
        without ``return_cache_object`` they are a dict, and all of them are fetched. With
        ``stop_at_layer`` the first is None.
        """
        options = {**(self._patch or {}), "kv_cache": past_kv_cache, **options}
        logits, cache = self.graph.run_with_cache(input, names_filter, slice_output=None, **options)
        result = None if logits is None else self._returned(logits, input, return_type, loss_per_token, options)
        return result, cache if return_cache_object else dict(cache)

    def _returned(
        self, logits: Array, input: Prompt, return_type: ReturnType, per_token: bool, options: Mapping[str, Any]
    ) -> Any:
        if return_type not in ("logits", "loss", "both", None):
            raise ValueError(f"return_type must be 'logits', 'loss', 'both' or None, not {return_type!r}")
        if return_type in ("logits", None):
            return logits if return_type else None
        texts = isinstance(input, str) or bool(len(input)) and isinstance(input[0], str)
        ids = self.to_tokens(input, options.get("prepend_bos")) if texts else input
        loss = next_token_loss(logits, ids, per_token)
        return loss if return_type == "loss" else Output(logits, loss)

    def _residual(self, input: Prompt, stop_at_layer: int, options: dict[str, Any]) -> Array:
        """What the block after the last one that runs would read."""
        below = stop_at_layer + (self.cfg.n_layers if stop_at_layer < 0 else 0)
        if below == 0:
            return self.input_to_embed(input, prepend_bos=options.get("prepend_bos"))[0]
        name = f"blocks.{below - 1}.hook_resid_post"
        _, cache = self.graph.run_with_cache(input, name, stop_at_layer=stop_at_layer, **options)
        return cache[name]

    def add_hook(self, name: Any, *spec: Any, **options: Any) -> Any:
        """A declarative intervention in all passes of this graph, as :meth:`Graph.add_hook`."""
        return self.graph.add_hook(name, *spec, **options)

    def reset_hooks(self) -> None:
        """Removes all hooks."""
        self.graph.reset_hooks()

    def input_to_embed(self, input: Prompt, **options: Any) -> Any:
        """As :meth:`Model.input_to_embed`."""
        return self.wrapped_model.input_to_embed(input, **options)

    # --- the model --------------------------------------------------------------------------------

    @property
    def cfg(self) -> Any:
        """The model's configuration, in TransformerLens's names."""
        return self.wrapped_model.cfg

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer; None for a model without one."""
        return Tokenizer(self.wrapped_model) if self.wrapped_model.has_tokenizer else None

    @property
    def blocks(self) -> "Blocks":
        """``blocks[3].attn.W_Q``: parameters, fetched when asked for."""
        return self.wrapped_model.blocks

    def to_tokens(self, input: Any, prepend_bos: bool | None = None) -> Array:
        """As :meth:`Model.to_tokens`."""
        return self.wrapped_model.to_tokens(input, prepend_bos)

    def to_str_tokens(self, input: Any, prepend_bos: bool | None = None) -> Any:
        """As :meth:`Model.to_str_tokens`."""
        return self.wrapped_model.to_str_tokens(input, prepend_bos)

    def to_string(self, tokens: Any) -> Any:
        """As :meth:`Model.to_string`."""
        return self.wrapped_model.to_string(tokens)

    def _repr_html_(self) -> str:
        from ._html import graph

        return graph(self.graph)

    def __repr__(self) -> str:
        return f"<ablate.PatchableModel of {self.wrapped_model.name!r}: {self.n_edges} edges>"


Made = TypeVar("Made", bound=PatchableModel)


def patchable_model(
    model: Model,
    factorized: bool,
    slice_output: SliceOutput = None,
    seq_len: int | None = None,
    separate_qkv: bool | None = None,
    kv_caches: Sequence[KvCacheLike] = (None,),
    device: Any = None,
) -> PatchableModel:
    """AutoCircuit's function: a graph over a model of the daemon, with these defaults.

    ``separate_qkv`` must be given for a factorized transformer. ``device`` is where the model is, and is
    not looked at. Raises ValueError, and what :meth:`Model.graph` raises.
    """
    return make_patchable(
        PatchableModel, model, factorized, slice_output, seq_len, separate_qkv, kv_caches
    )


def make_patchable(
    cls: type[Made],
    model: Model,
    factorized: bool,
    slice_output: SliceOutput,
    seq_len: int | None,
    separate_qkv: bool | None,
    kv_caches: Sequence[KvCacheLike],
) -> Made:
    """:func:`patchable_model` for a subclass."""
    if factorized and separate_qkv is None and model.cfg.is_transformer:
        raise ValueError("separate_qkv must be True or False for a transformer")
    caches = [cache for cache in kv_caches if cache is not None]
    graph = model.graph(
        factorized=factorized,
        separate_qkv=separate_qkv is not False,
        seq_len=seq_len,
        slice_output=slice_output,
        kv_caches=caches,
    )
    by_id = {cache.id: cache for cache in model.kv_caches()} if caches else {}
    resident = [cache if isinstance(cache, KvCache) else by_id[str(cache)] for cache in caches]
    return cls(model, graph, slice_output, resident)


# The end of a module's name -> that of the parameter that AutoCircuit names for it.
_WEIGHTS = {
    "attn.hook_result": "attn.W_O",
    "hook_mlp_out": "mlp.W_out",
    "hook_mlp_in": "mlp.W_in",
    "hook_q_input": "attn.W_Q",
    "hook_k_input": "attn.W_K",
    "hook_v_input": "attn.W_V",
    "hook_attn_in": "attn.W_QKV",
}


def _weight_of(module_name: str, is_source: bool, is_factorized: bool) -> str | None:
    """AutoCircuit's ``Node.weight``; nodes of the stream itself have none in unfactorized graphs."""
    block, _, end = module_name.removeprefix("blocks.").partition(".")
    if end in _WEIGHTS:
        return f"blocks.{block}.{_WEIGHTS[end]}"
    if not is_factorized:
        return None
    return "embed.W_E" if is_source else "unembed.W_U"


def edge_key(edge: Any) -> Any:
    """What :class:`Graph` takes for an edge of ours: (name, position), or its name."""
    if isinstance(edge, Edge):
        return edge.name if edge.seq_idx is None else (edge.name, edge.seq_idx)
    return edge


class _Topology:
    """Nodes and edges as objects, made once from what the daemon lists."""

    def __init__(self, graph: Graph):
        self.wrappers = graph.wrappers
        modules = {wrapper.module_name: wrapper for wrapper in self.wrappers}
        self.srcs: list[SrcNode] = []
        self.dests: list[DestNode] = []
        for node in graph.nodes:
            wrapper = modules[node.module_name]
            head_dim = None if node.head_idx is None else wrapper.head_dim
            weight = _weight_of(node.module_name, node.is_source, graph.is_factorized)
            weight_head_dim = None if node.head_idx is None else 0
            common = (node.name, node.module_name, node.layer, node.head_idx, head_dim, weight, weight_head_dim)
            if node.is_source:
                self.srcs.append(SrcNode(*common, src_idx=node.src_idx or 0))
            else:
                received = wrapper.in_srcs
                self.dests.append(DestNode(*common, min_src_idx=received.start if received else 0))
        srcs = {src.name: src for src in self.srcs}
        dests = {dest.name: dest for dest in self.dests}
        self.edge_dict: dict[int | None, list[Edge]] = {}
        for edge in graph.iter_edges():
            source, _, destination = edge.name.partition("->")
            self.edge_dict.setdefault(edge.seq_idx, []).append(
                Edge(srcs[source], dests[destination], edge.seq_idx)
            )
