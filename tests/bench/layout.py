# SPDX-License-Identifier: Apache-2.0
"""Where each edge's number is: the flat, canonical order that libablate uses, and the same numbers
as AutoCircuit keeps them, a tensor a destination module."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    """A GPT-2-like model without grouped queries."""

    layers: int = 12
    heads: int = 12
    d_model: int = 768
    vocab: int = 50257
    n_ctx: int = 1024

    @staticmethod
    def of(folder: str | Path) -> Shape:
        """That of a Hugging Face folder with a GPT-2, else GPT-2 small's."""
        config = json.loads((Path(folder) / "config.json").read_text())
        if config["model_type"] != "gpt2":
            return Shape()
        return Shape(config["n_layer"], config["n_head"], config["n_embd"], config["vocab_size"],
                     config["n_positions"])

    @property
    def d_head(self) -> int:
        return self.d_model // self.heads

    def modules(self) -> list[tuple[str, int, int]]:
        """(AutoCircuit's module name, destination heads, sources), in canonical order."""
        found = []
        for layer in range(self.layers):
            sources = 1 + layer * (self.heads + 1)
            for part in ("q", "k", "v"):
                found.append((f"blocks.{layer}.hook_{part}_input", self.heads, sources))
            found.append((f"blocks.{layer}.hook_mlp_in", 1, sources + self.heads))
        end = f"blocks.{self.layers - 1}.hook_resid_post"
        found.append((end, 1, 1 + self.layers * (self.heads + 1)))
        return found

    @property
    def edge_count(self) -> int:
        return sum(heads * sources for _, heads, sources in self.modules())

    def acdc_order(self) -> list[int]:
        """All edges as ACDC tries them: down the destinations' layers, each in canonical order."""
        layers, edge = {}, 0
        for index, (_, heads, sources) in enumerate(self.modules()):
            # Query, key and value inputs of a block are one layer.
            layer = (index // 4, index % 4 == 3)
            layers.setdefault(layer, []).extend(range(edge, edge + heads * sources))
            edge += heads * sources
        return [edge for layer in sorted(layers, reverse=True) for edge in layers[layer]]

    def locate(self, edge: int) -> tuple[str, int, int]:
        """(module, destination head, source) of a flat index."""
        for name, heads, sources in self.modules():
            if edge < heads * sources:
                return name, edge // sources, edge % sources
            edge -= heads * sources
        raise IndexError(edge)


def acdc_depths(shape) -> list[tuple[int, list[int]]]:
    """(block, its edges into heads) for five blocks: by source, a source's by the heads' names, which
    is the sample that AutoCircuit's cost was first measured on."""
    last = shape.layers - 1
    blocks = sorted({0, shape.layers // 4, shape.layers // 2, 3 * shape.layers // 4, last})
    edges, start = {}, 0
    for name, heads, sources in shape.modules():
        if "_input" in name:
            _, block, hook = name.split(".")
            of_block = edges.setdefault(int(block), [])
            for index in range(heads * sources):
                head, source = divmod(index, sources)
                of_block.append((source, f"A{block}.{head}.{hook[5].upper()}", start + index))
        start += heads * sources
    return [(block, [edge for _, _, edge in sorted(edges[block])]) for block in blocks]


def over_all_blocks(shape, seconds: dict[int, float]) -> float:
    """The mean of an edge's seconds over the model: depths are weighted by their blocks' edges, blocks
    between two depths by a straight line, as the figures of AutoCircuit's cost were made."""
    import numpy as np

    counts = {}
    for name, heads, sources in shape.modules():
        block = int(name.split(".")[1])
        counts[block] = counts.get(block, 0) + heads * sources
    blocks = sorted(counts)
    costs = np.interp(blocks, sorted(seconds), [seconds[block] for block in sorted(seconds)])
    return float(np.average(costs, weights=[counts[block] for block in blocks]))
