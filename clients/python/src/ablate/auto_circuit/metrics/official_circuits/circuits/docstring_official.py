# SPDX-License-Identifier: Apache-2.0
"""Docstrings in the 4-layer attention-only model attn-only-4l (Heimersheim and Janiak, 2023,
alignmentforum.org/posts/u6KXXmKFbXfWzoAXn), as AutoCircuit has them.
"""

from __future__ import annotations

from typing import Dict, Set

from ....types import Edge
from ....utils.patchable_model import PatchableModel
from ._edges import Positions, check, edges_named, edges_of_heads

_WORDS = ("A_def", "B_def", ",_B", "C_def", "A_doc", "B_doc", "param_3")
# Edge -> the words at whose positions it is in the circuit.
_EDGES = {
    "Resid Start->A0.5.V": ("B_def", "C_def", "B_doc"),
    "Resid Start->A1.4.V": ("B_def", "B_doc"),
    "A0.5->A1.4.V": ("B_def", "B_doc"),
    "Resid Start->A1.2.K": ("A_def", "B_def", "A_doc", "B_doc"),
    "Resid Start->A1.2.Q": ("A_doc", "B_doc"),
    "A0.5->A1.2.Q": ("B_doc",),
    "A0.5->A1.2.K": ("B_def", "B_doc"),
    "Resid Start->A2.0.Q": ("C_def",),
    "A0.5->A2.0.Q": ("C_def",),
    "Resid Start->A2.0.K": (),
    "A0.5->A2.0.K": ("B_def",),
    "A1.4->A2.0.V": (",_B",),
    **{
        edge: words
        for mover in ("A3.0", "A3.6")
        for edge, words in {
            f"{mover}->Resid End": ("param_3",),
            f"A1.4->{mover}.Q": ("param_3",),
            f"Resid Start->{mover}.V": ("C_def",),
            f"A0.5->{mover}.V": ("C_def",),
            f"A2.0->{mover}.K": ("C_def",),
            f"A1.2->{mover}.K": ("A_doc", "B_doc"),
        }.items()
    },
}
_HEADS = {
    "A0.2": ("B_doc",),
    "A0.4": ("param_3",),
    "A0.5": ("B_def", "C_def", "B_doc"),
    "A1.2": ("A_doc", "B_doc"),
    "A1.4": (",_B",),
    "A2.0": ("C_def",),
    "A3.0": ("param_3",),
    "A3.6": ("param_3",),
}
# The post names no positions for these: they are in from the first word to the last.
_HEADS_EVERYWHERE = ("A0.1", "A1.0", "A2.3")


def docstring_true_edges(
    model: PatchableModel,
    token_positions: bool = False,
    word_idxs: Dict[str, int] = {},
    seq_start_idx: int = 0,
) -> Set[Edge]:
    """The edges of the circuit. ``token_positions``: only where it has them, by ``word_idxs``:
    ``A_def, B_def, ",_B", C_def, A_doc, B_doc, param_3``, which are ``seq_start_idx`` ahead of the graph's.

    Raises ValueError for another model, a graph without its nodes, and positions that are not given.
    """
    check(model, "docstring", 4, 8, token_positions, word_idxs, _WORDS)
    present: Positions = {edge: [word_idxs.get(word, 0) for word in words] for edge, words in _EDGES.items()}
    return edges_named(model, present, token_positions, seq_start_idx)


def docstring_node_based_official_edges(
    model: PatchableModel,
    token_positions: bool = False,
    word_idxs: Dict[str, int] = {},
    seq_start_idx: int = 0,
) -> Set[Edge]:
    """Every edge but those that begin in a head outside of the circuit: the post ablates heads.
    ``word_idxs`` and errors as :func:`docstring_true_edges`.
    """
    check(model, "docstring", 4, 8, token_positions, word_idxs, _WORDS, None)
    heads: Positions = {head: [word_idxs.get(word, 0) for word in words] for head, words in _HEADS.items()}
    places = [word_idxs.get(word, 0) for word in _WORDS if word != "A_def"]
    heads |= dict.fromkeys(_HEADS_EVERYWHERE, list(range(min(places), max(places) + 1)))
    return edges_of_heads(model, heads, token_positions, seq_start_idx)
