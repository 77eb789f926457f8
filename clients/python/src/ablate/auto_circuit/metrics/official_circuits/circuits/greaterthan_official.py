# SPDX-License-Identifier: Apache-2.0
"""Greater-than in GPT-2 small (Hanna et al., arXiv:2305.00586), with the edges that Conmy et al.
(arXiv:2304.14997) read out of it, as AutoCircuit has them.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Set, Tuple

from ....types import Edge
from ....utils.patchable_model import PatchableModel
from ._edges import check, edges_named

CIRCUIT: Dict[str, List[Tuple[int, Optional[int]]]] = {
    "ATTN_0.3_0.5": [(0, 3), (0, 5)],
    "ATTN_0.1": [(0, 1)],
    "EARLY_MLPS": [(layer, None) for layer in range(4)],
    "MID_ATTNS": [(5, 5), (6, 1), (6, 9), (7, 10), (8, 11), (9, 1)],
    "LATE_MLPS": [(layer, None) for layer in range(8, 12)],
}
"""Groups of nodes: (layer, head), an MLP where there is no head."""
CONNECTED_PAIRS = [
    ("ATTN_0.1", "EARLY_MLPS"),
    ("ATTN_0.1", "MID_ATTNS"),
    ("ATTN_0.3_0.5", "MID_ATTNS"),
    ("EARLY_MLPS", "MID_ATTNS"),
    ("MID_ATTNS", "LATE_MLPS"),
]
"""Groups of which one feeds the other."""


def idx_to_nodes(layer_idx: int, head_idx: Optional[int], src_nodes: bool) -> List[str]:
    """The names of an MLP or a head as a source, or as destinations: a head has three."""
    if head_idx is None:
        return [f"MLP {layer_idx}"]
    name = f"A{layer_idx}.{head_idx}"
    return [name] if src_nodes else [f"{name}.{letter}" for letter in "QKV"]


def greaterthan_true_edges(
    model: PatchableModel,
    token_positions: bool = False,
    word_idxs: Dict[str, int] = {},
    seq_start_idx: int = 0,
) -> Set[Edge]:
    """The edges of the circuit, at every position: the paper names none, so the last three are not
    looked at. Raises ValueError for another model and a graph without ``separate_qkv``.
    """
    check(model, "greater-than", 12, 12, False, word_idxs, ())

    def names(group: str, as_source: bool) -> List[Tuple[int, bool, str]]:
        """(layer, whether an MLP, name)"""
        return [
            (layer, head is None, name)
            for layer, head in CIRCUIT[group]
            for name in idx_to_nodes(layer, head, as_source)
        ]

    present: Set[str] = set()
    for group in ("ATTN_0.3_0.5", "ATTN_0.1", "EARLY_MLPS"):
        present |= {f"Resid Start->{name}" for _, _, name in names(group, False)}
    for group in ("MID_ATTNS", "LATE_MLPS"):
        present |= {f"{name}->Resid End" for _, _, name in names(group, True)}
    # MLPs of a group feed those above them, and all below the last middle head each other.
    within = [[layer for layer, _ in CIRCUIT[group]] for group in ("EARLY_MLPS", "LATE_MLPS")]
    within.append(list(range(max(layer for layer, _ in CIRCUIT["MID_ATTNS"]))))
    for layers in within:
        present |= {f"MLP {low}->MLP {high}" for low in layers for high in layers if low < high}
    for senders, receivers in CONNECTED_PAIRS:
        for low, _, source in names(senders, True):
            for high, into_mlp, end in names(receivers, False):
                if low < high or low == high and into_mlp and not source.startswith("MLP"):
                    present.add(f"{source}->{end}")
    for layer, head in CIRCUIT["MID_ATTNS"]:
        present |= {f"MLP {below}->A{layer}.{head}.Q" for below in range(layer)}
    return edges_named(model, dict.fromkeys(present, []), False, seq_start_idx)
