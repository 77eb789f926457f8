# SPDX-License-Identifier: Apache-2.0
"""What a graph is made of: nodes, wrapped modules, edges, and how edges are named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Iterator, Literal, Mapping, Union

from ._enums import enum_value
from .v1 import common_pb2, graph_pb2

if TYPE_CHECKING:
    from ._client import Client
    from ._model import Model


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


class Topology:
    """The part of :class:`Graph` that never changes."""

    client: "Client"
    model: "Model"
    id: str
    modules: dict[str, tuple[int, ...]]
    seq_len: int | None
    is_factorized: bool
    separate_qkv: bool
    expand_kv_heads: bool
    _edges: list[Edge] | None = None
    _nodes: list[Node] | None = None

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


def edge_values(values: Mapping[EdgeKey, float]) -> list[common_pb2.EdgeValue]:
    """Edges and their numbers for a message."""
    out = []
    for key, value in values.items():
        if isinstance(key, Edge):
            key = (key.name, key.seq_idx) if key.seq_idx is not None else key.name
        name, seq_number = (key[0], key[1] + 1) if isinstance(key, tuple) else (key, 0)
        out.append(common_pb2.EdgeValue(edge=name, seq_number=seq_number, value=float(value)))
    return out
