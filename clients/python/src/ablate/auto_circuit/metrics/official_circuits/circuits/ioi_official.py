# SPDX-License-Identifier: Apache-2.0
"""Indirect object identification in GPT-2 small (Wang et al., arXiv:2211.00593), with the edges that
Conmy et al. (arXiv:2304.14997) read out of it, as AutoCircuit has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Set, Tuple

from ....types import Edge
from ....utils.patchable_model import PatchableModel
from ._edges import Positions, check, edges_named, edges_of_heads

IOI_CIRCUIT: Dict[str, List[Tuple[int, int]]] = {
    "name mover": [(9, 9), (10, 0), (9, 6)],
    "backup name mover": [(10, 10), (10, 6), (10, 2), (10, 1), (11, 2), (9, 7), (9, 0), (11, 9)],
    "negative": [(10, 7), (11, 10)],
    "s2 inhibition": [(7, 3), (7, 9), (8, 6), (8, 10)],
    "induction": [(5, 5), (5, 8), (5, 9), (6, 9)],
    "duplicate token": [(0, 1), (0, 10), (3, 0)],
    "previous token": [(2, 2), (4, 11)],
}
"""What heads do -> (layer, head)."""
_WORDS = ("IO", "S1", "S1+1", "S2", "end")
_MOVERS = ("name mover", "backup name mover", "negative")
# Where each kind of head does it.
_HEADS_AT = {**dict.fromkeys((*_MOVERS, "s2 inhibition"), "end"), "induction": "S2", "duplicate token": "S2",
             "previous token": "S1+1"}  # fmt: skip


@dataclass(frozen=True)
class Conn:
    """Heads that feed others, or the input, or the output."""

    inp: str
    out: str
    qkv: List[Tuple[Optional[str], int]]
    """The receiving input (None: the output), and its token position."""


def _connections(at: Dict[str, int]) -> List[Conn]:
    """Who feeds whom, and where."""

    def receives(**inputs: str) -> List[Tuple[Optional[str], int]]:
        return [(letter, at[word]) for letter, word in inputs.items()]

    return [
        Conn("INPUT", "previous token", receives(q="S1+1", k="S1", v="S1")),
        Conn("INPUT", "duplicate token", receives(q="S2", k="S1", v="S1")),
        Conn("INPUT", "s2 inhibition", receives(q="end")),
        *(Conn("INPUT", movers, receives(k="IO", v="IO")) for movers in _MOVERS),
        Conn("previous token", "induction", receives(k="S1+1", v="S1+1")),
        Conn("induction", "s2 inhibition", receives(k="S2", v="S2")),
        Conn("duplicate token", "s2 inhibition", receives(k="S2", v="S2")),
        *(Conn("s2 inhibition", movers, receives(q="end")) for movers in _MOVERS),
        *(Conn(movers, "OUTPUT", [(None, at["end"])]) for movers in _MOVERS),
    ]


def ioi_true_edges(
    model: PatchableModel,
    token_positions: bool = False,
    word_idxs: Dict[str, int] = {},
    seq_start_idx: int = 0,
) -> Set[Edge]:
    """The edges of the circuit. MLPs between two heads of it are part of it, as in the paper.

    ``token_positions``: only where the paper has them, by ``word_idxs``: ``IO, S1, S1+1, S2, end``,
    whose positions are ``seq_start_idx`` ahead of the graph's. MLPs above the last heads are in up to
    block ``word_idxs["end"]``, as AutoCircuit counts them: without positions none is.

    Raises ValueError for another model, a graph without its nodes, and positions that are not given.
    """
    check(model, "IOI", 12, 12, token_positions, word_idxs, _WORDS)
    if not model.is_factorized:
        raise ValueError("the IOI circuit of edges needs a factorized graph")
    at = {word: word_idxs.get(word, 0) for word in _WORDS}
    present: Positions = {}
    for conn in _connections(at):
        sources = [f"A{layer}.{head}" for layer, head in IOI_CIRCUIT.get(conn.inp, [])] or ["Resid Start"]
        first = min((layer for layer, _ in IOI_CIRCUIT.get(conn.inp, [])), default=0)
        if conn.out == "OUTPUT":
            ends, last = [("Resid End", at["end"])], at["end"]
        else:
            heads = IOI_CIRCUIT[conn.out]
            ends = [(f"A{layer}.{head}.{str(letter).upper()}", position)
                    for layer, head in heads for letter, position in conn.qkv]  # fmt: skip
            last = max(layer for layer, _ in heads)
        for layer in range(first, last):  # an MLP is behind its block's heads, and before the next one's
            sources.append(f"MLP {layer}")
            ends += [(f"MLP {layer}", position) for _, position in conn.qkv]
        for source in sources:
            for end, position in ends:
                present.setdefault(f"{source}->{end}", []).append(position)
    return edges_named(model, present, token_positions, seq_start_idx)


def ioi_true_edges_mlp_0_only(
    model: PatchableModel,
    token_positions: bool = False,
    word_idxs: Dict[str, int] = {},
    seq_start_idx: int = 0,
) -> Set[Edge]:
    """:func:`ioi_true_edges` without the edges of MLPs other than MLP 0; raises as it does."""
    edges = ioi_true_edges(model, token_positions, word_idxs, seq_start_idx)
    return {edge for edge in edges if "MLP" not in edge.name or "MLP 0" in edge.name}


def ioi_head_based_official_edges(
    model: PatchableModel,
    token_positions: bool = False,
    word_idxs: Dict[str, int] = {},
    seq_start_idx: int = 0,
) -> Set[Edge]:
    """Every edge but those that begin in a head outside of the circuit: the paper ablates heads. With
    ``token_positions`` a head is in the circuit only where ``word_idxs`` has ``S1+1``, ``S2``, ``end``.

    Raises ValueError as :func:`ioi_true_edges` does.
    """
    check(model, "IOI", 12, 12, token_positions, word_idxs, sorted(set(_HEADS_AT.values())), None)
    heads: Positions = {
        f"A{layer}.{head}": [word_idxs.get(_HEADS_AT[kind], 0)]
        for kind, places in IOI_CIRCUIT.items()
        for layer, head in places
    }
    return edges_of_heads(model, heads, token_positions, seq_start_idx)
