# SPDX-License-Identifier: Apache-2.0
"""Score files of other tools, both ways and without loss.

- safetensors with AutoCircuit's names: a float32 tensor a destination module. Readable by anything.
- the graph JSON of EAP-IG 2.0 and the MIB benchmark: ``cfg``, ``nodes``, ``edges``, each edge with its
  ``score`` and ``in_graph``. There ``in_graph`` true means *kept*; a patch mask of 1 means *ablated*.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Union

import numpy as np

from ._arrays import Array, to_numpy
from .errors import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from ._topology import Topology

PathLike = Union[str, "os.PathLike[str]"]
CFG_KEYS = ("n_layers", "n_heads", "parallel_attn_mlp", "d_model")
_HEADER_BYTES_MAX = 16 << 20


# --- safetensors -----------------------------------------------------------------------------------


def save_scores(arrays: Mapping[str, Array], path: PathLike, metadata: Mapping[str, str] | None = None) -> None:
    """Writes float32 tensors by module name; whole or not at all."""
    header: dict[str, Any] = {"__metadata__": {"format": "ablate.prune_scores", **(metadata or {})}}
    blocks, offset = [], 0
    for name, array in arrays.items():
        values = np.ascontiguousarray(to_numpy(array), dtype="<f4")
        header[name] = {
            "dtype": "F32",
            "shape": list(values.shape),
            "data_offsets": [offset, offset + values.nbytes],
        }
        blocks.append(values.tobytes())
        offset += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = Path(f"{os.fspath(path)}.part")
    part.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *blocks]))
    part.replace(path)


def load_scores(path: PathLike) -> dict[str, np.ndarray]:
    """Reads what :func:`save_scores`, ``ablate export`` or safetensors itself wrote: float32 (or
    bool) tensors by module name. ValueError for a file that is something else."""
    data = Path(path).read_bytes()
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    if not 2 <= length <= min(_HEADER_BYTES_MAX, len(data) - 8):
        raise ValueError(f"{path} is no safetensors file")
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError:
        raise ValueError(f"{path} is no safetensors file: its header is not JSON") from None
    kinds = {"F32": np.dtype("<f4"), "BOOL": np.dtype("?")}
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in kinds:
            raise ValueError(f"{path}: {name} is {entry['dtype']}; scores are F32")
        begin, end = entry["data_offsets"]
        block = data[8 + length + begin : 8 + length + end]
        values = np.frombuffer(block, kinds[entry["dtype"]]).reshape(entry["shape"])
        out[name] = values.astype(np.float32)
    return out


# --- the graph JSON of EAP-IG and MIB -------------------------------------------------------------------


@dataclass
class EapGraph:
    """A graph file of EAP-IG 2.0 or MIB, read for a :class:`ablate.Graph`."""

    cfg: dict[str, Any]
    """``n_layers, n_heads, parallel_attn_mlp, d_model``, as in the file."""
    scores: dict[str, np.ndarray]
    """Scores by destination module, shaped as in :attr:`ablate.Graph.modules`."""
    mask: dict[str, np.ndarray]
    """1 where an edge is *not* in the graph: a patch mask, which ablates the rest."""
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``in_graph`` and, if the file has them, ``score``, ``neurons`` and ``neurons_scores`` of each node."""
    edges: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict, repr=False)
    """Edge by EAP name: its module, and its element there."""

    def to_dict(self) -> dict[str, Any]:
        """The file's content."""
        edges = {
            name: {"score": float(self.scores[module][at]), "in_graph": bool(self.mask[module][at] == 0)}
            for name, (module, at) in self.edges.items()
        }
        return {"cfg": dict(self.cfg), "nodes": self.nodes, "edges": edges}

    def _repr_html_(self) -> str:
        from ._html import eap_graph

        return eap_graph(self)

    def save(self, path: PathLike) -> None:
        """Writes the file; EAP-IG's ``Graph.from_json`` and MIB's evaluation read it."""
        part = Path(f"{os.fspath(path)}.part")
        part.write_text(json.dumps(self.to_dict()))
        part.replace(path)


def _eap_edges(graph: "Topology") -> dict[str, tuple[str, tuple[int, ...]]]:
    """Where each edge's number is, by EAP name; the graphs that EAP-IG has no file for are refused."""
    cfg = graph.model.cfg
    if not graph.is_factorized or graph.seq_len is not None or not graph.separate_qkv:
        raise FailedPreconditionError(
            "EAP-IG's graph files are of factorized graphs, have no token positions and tell q, k and "
            "v apart; this graph does otherwise: use model.graph()",
            "GRAPH_OPTIONS",
        )
    if cfg.n_key_value_heads != cfg.n_heads and not graph.expand_kv_heads:
        raise FailedPreconditionError(
            "EAP-IG's graph files have a key and value input for each query head: use "
            "model.graph(expand_kv_heads=True)",
            "GRAPH_OPTIONS",
        )
    return {edge.name: (edge.module_name, edge.patch_idx) for edge in graph.iter_edges(dialect="eap")}


def _cfg_of(graph: "Topology") -> dict[str, Any]:
    return {key: getattr(graph.model.cfg, key) for key in CFG_KEYS}


def _zeros(graph: "Topology") -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.float32) for name, shape in graph.modules.items()}


def _node_flags(edges: Mapping[str, Any], mask: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """A node is in the graph when an edge leads into it and one out of it; the input and the logits
    need one side only."""
    sources: dict[str, bool] = {}
    readers: dict[str, bool] = {}
    for name, (module, at) in edges.items():
        source, reader = name.split("->")
        reader = reader.split("<")[0]
        kept = bool(mask[module][at] == 0)
        sources[source] = sources.get(source, False) or kept
        readers[reader] = readers.get(reader, False) or kept
    flags = {name: {"in_graph": kept and readers.get(name, True)} for name, kept in sources.items()}
    return {**flags, "logits": {"in_graph": True}}


def to_eap_graph(
    graph: "Topology", scores: Mapping[str, Array], mask: Mapping[str, Array] | None = None
) -> EapGraph:
    """Scores, and a mask (1 = ablated; None: nothing is), as a graph file of EAP-IG."""
    edges = _eap_edges(graph)
    values = {name: to_numpy(scores[name]).astype(np.float32) for name in graph.modules}
    masks = _zeros(graph) if mask is None else {n: to_numpy(mask[n]).astype(np.float32) for n in graph.modules}
    for name, array in masks.items():
        if not np.isin(array, (0, 1)).all():
            raise InvalidArgumentError(
                f"the mask of {name} has values other than 0 and 1; in_graph is true or false", "MASK_FRACTION"
            )
    return EapGraph(_cfg_of(graph), values, masks, _node_flags(edges, masks), edges)


def _read_json(source: PathLike | Mapping[str, Any]) -> dict[str, Any]:
    try:
        content = source if isinstance(source, Mapping) else json.loads(Path(source).read_text())
    except ValueError as error:
        raise InvalidArgumentError(f"no graph file of EAP-IG: no JSON: {error}", "GRAPH_FILE_MALFORMED") from None
    if not isinstance(content, Mapping):
        raise InvalidArgumentError("no graph file of EAP-IG: no JSON object", "GRAPH_FILE_MALFORMED")
    missing = [key for key in ("cfg", "nodes", "edges") if not isinstance(content.get(key), Mapping)]
    if missing:
        raise InvalidArgumentError(f"no graph file of EAP-IG: {missing[0]!r} is missing", "GRAPH_FILE_MALFORMED")
    return dict(content)


def from_eap_graph(graph: "Topology", source: PathLike | Mapping[str, Any]) -> EapGraph:
    """Reads a graph file for a graph.

    Raises :class:`ablate.InvalidArgumentError`: ``GRAPH_CONFIG_MISMATCH`` for another model's, naming
    the fields that differ, ``GRAPH_FILE_MALFORMED`` with the edge that is missing, unknown or has no score.
    """
    content = _read_json(source)
    ours = _cfg_of(graph)
    differ = [
        f"{key} is {content['cfg'].get(key)!r} there and {value!r} here"
        for key, value in ours.items()
        if key not in content["cfg"] or content["cfg"][key] != value
    ]
    if differ:
        raise InvalidArgumentError(f"the file is of another model: {', '.join(differ)}", "GRAPH_CONFIG_MISMATCH")
    edges = _eap_edges(graph)
    out = EapGraph(dict(content["cfg"]), _zeros(graph), _zeros(graph), dict(content["nodes"]), {})
    for name, entry in content["edges"].items():
        if name not in edges:
            raise InvalidArgumentError(f"the file's edge {name!r} is none of the graph's", "GRAPH_FILE_MALFORMED")
        module, at = edges[name]
        try:
            out.scores[module][at] = entry["score"]
            out.mask[module][at] = 0.0 if entry["in_graph"] else 1.0
        except (KeyError, TypeError, ValueError):
            raise InvalidArgumentError(
                f"the file's edge {name!r} needs a score and in_graph, not {entry!r}", "GRAPH_FILE_MALFORMED"
            ) from None
        out.edges[name] = (module, at)
    lacking = next((name for name in edges if name not in out.edges), None)
    if lacking is not None:
        raise InvalidArgumentError(f"the file lacks the edge {lacking!r}", "GRAPH_FILE_MALFORMED")
    return out
