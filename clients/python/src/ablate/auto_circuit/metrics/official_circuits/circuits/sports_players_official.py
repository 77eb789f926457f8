# SPDX-License-Identifier: Apache-2.0
"""Which sport a player plays, in pythia-2.8b-deduped (Rajamanoharan et al., 2023,
alignmentforum.org/posts/3tqJ65kuTkBh8wrRH), as AutoCircuit reads it.
"""

from __future__ import annotations

from typing import Dict, Set

from ....types import Edge
from ....utils.patchable_model import PatchableModel
from ._edges import Positions, check, edges_named

_WORDS = ("first_name_tok", "final_name_tok", "end")
_READER = "A16.20"
_BEHIND_READER = ("A21.9", "A22.17", "A22.15", "A17.30", "A19.24")
_LOOKUP_MLPS = 16


def sports_players_true_edges(
    model: PatchableModel,
    token_positions: bool = False,
    word_idxs: Dict[str, int] = {},
    seq_start_idx: int = 0,
) -> Set[Edge]:
    """The edges of the circuit: blocks 0 and 1 put the name together, the MLPs of blocks 0 to 15 look it
    up at its last token, A16.20 and five heads behind it take the sport to the end.

    ``token_positions``: only there, by ``word_idxs``: ``first_name_tok, final_name_tok, end``, which are
    ``seq_start_idx`` ahead of the graph's. Raises ValueError for another model, a graph with
    ``separate_qkv`` and positions that are not given.
    """
    present = _lookup(model, token_positions, word_idxs, _LOOKUP_MLPS)
    name_end, end = word_idxs.get("final_name_tok", 0), word_idxs.get("end", 0)
    for source in _name_nodes(model, _LOOKUP_MLPS):
        present[f"{source}->{_READER}"] = [name_end]
    for head in _BEHIND_READER:
        present[f"{_READER}->{head}"] = [name_end]
    for head in (_READER, *_BEHIND_READER):
        present[f"{head}->Resid End"] = [end]
    return edges_named(model, present, token_positions, seq_start_idx)


def sports_players_probe_true_edges(
    model: PatchableModel,
    token_positions: bool = False,
    word_idxs: Dict[str, int] = {},
    seq_start_idx: int = 0,
) -> Set[Edge]:
    """Without the heads that take the sport to the end, and with MLPs up to the last block: what the
    post probes. ``word_idxs`` and errors as :func:`sports_players_true_edges`.
    """
    present = _lookup(model, token_positions, word_idxs, model.cfg.n_layers)
    return edges_named(model, present, token_positions, seq_start_idx)


def _early_heads(model: PatchableModel) -> list[str]:
    return [f"A{layer}.{head}" for layer in range(2) for head in range(model.cfg.n_heads)]


def _name_nodes(model: PatchableModel, mlps: int) -> list[str]:
    return ["Resid Start", *_early_heads(model), *(f"MLP {layer}" for layer in range(mlps))]


def _lookup(model: PatchableModel, token_positions: bool, word_idxs: Dict[str, int], mlps: int) -> Positions:
    """Names put together and looked up: all edges among blocks 0 and 1 at the tokens of a name but the
    last, where MLP 1 comes too late, and all edges among these and the MLPs at the last one."""
    check(model, "sports players", 32, 32, token_positions, word_idxs, _WORDS, separate_qkv=False)
    first, last = word_idxs.get("first_name_tok", 0), word_idxs.get("final_name_tok", 0)
    present: Positions = {}
    for nodes, positions in (
        (["Resid Start", "MLP 0", *_early_heads(model)], list(range(first, last))),
        (_name_nodes(model, mlps), [last]),
    ):
        for source in nodes:
            for end in nodes:
                present.setdefault(f"{source}->{end}", []).extend(positions)
    return present
