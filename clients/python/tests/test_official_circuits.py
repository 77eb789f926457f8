# SPDX-License-Identifier: Apache-2.0
"""Published circuits are the edges that AutoCircuit 1.0.1 has for them. autocircuit_circuits.json is a
count and a digest of what its functions return for graphs of these shapes.
"""

from __future__ import annotations

import functools
import hashlib
import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablate._patchable import DestNode, Edge, SrcNode

CIRCUITS = "ablate.auto_circuit.metrics.official_circuits.circuits."
RECORDED = json.loads(Path(__file__).with_name("autocircuit_circuits.json").read_text())


@functools.cache
def graph(n_layers: int, n_heads: int, mlps: bool, separate_qkv: bool, seq_len: int | None, name: str) -> Any:
    """A factorized graph's edges, without a daemon."""
    sources = [SrcNode("Resid Start", "blocks.0.hook_resid_pre", 0)]
    ends = [DestNode("Resid End", f"blocks.{n_layers - 1}.hook_resid_post", 2 * n_layers + 1)]
    for layer in range(n_layers):
        for head in range(n_heads):
            sources.append(SrcNode(f"A{layer}.{head}", "", 2 * layer + 1, head))
            for letter in (".Q", ".K", ".V") if separate_qkv else ("",):
                ends.append(DestNode(f"A{layer}.{head}{letter}", "", 2 * layer + 1, head))
        if mlps:
            sources.append(SrcNode(f"MLP {layer}", "", 2 * layer + 2))
            ends.append(DestNode(f"MLP {layer}", "", 2 * layer + 2))
    places = [None] if seq_len is None else range(seq_len)
    edges = {Edge(s, d, at) for at in places for s in sources for d in ends if s.layer < d.layer}
    cfg = SimpleNamespace(model_name=name, n_layers=n_layers, n_heads=n_heads)
    return SimpleNamespace(cfg=cfg, edges=edges, separate_qkv=separate_qkv, is_factorized=True, seq_len=seq_len)


def digest(edges: set[Any]) -> list[Any]:
    names = sorted(f"{edge.seq_idx} {edge.name}" for edge in edges)
    return [len(names), hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]]


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"{case['function']}-{case['positions']}")
def test_a_published_circuit_has_autocircuits_edges(case: dict[str, Any]) -> None:
    find = getattr(import_module(CIRCUITS + case["module"]), case["function"])
    model = graph(**case["graph"])
    options = {"word_idxs": case["word_idxs"], "seq_start_idx": case["start"]}
    assert digest(find(model, case["positions"], **options)) == case["edges"]


def test_another_model_and_missing_positions_are_refused() -> None:
    from ablate.auto_circuit.metrics.official_circuits.circuits.ioi_official import ioi_true_edges

    shape = {"n_layers": 12, "n_heads": 12, "mlps": True, "separate_qkv": True, "seq_len": None, "name": "gpt2"}
    with pytest.raises(ValueError, match="12 layers.*'other' with 2 and 12"):
        ioi_true_edges(graph(**{**shape, "n_layers": 2, "name": "other"}))
    with pytest.raises(ValueError, match="separate_qkv=True"):
        ioi_true_edges(graph(**{**shape, "n_layers": 12, "separate_qkv": False}))
    with pytest.raises(ValueError, match="seq_len"):
        ioi_true_edges(graph(**shape), True)
    few = graph(**{**shape, "seq_len": 1})
    with pytest.raises(ValueError, match="'S1', 'S1[+]1'"):
        ioi_true_edges(few, True, {"IO": 1})
