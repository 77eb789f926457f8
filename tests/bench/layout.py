# SPDX-License-Identifier: Apache-2.0
"""Where each edge's number is: the flat, canonical order that libablate uses, and the same numbers
as AutoCircuit keeps them, a tensor a destination module."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A GPT-2-like model without grouped queries."""

    layers: int = 12
    heads: int = 12
    d_model: int = 768
    vocab: int = 50257
    n_ctx: int = 1024

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

    def locate(self, edge: int) -> tuple[str, int, int]:
        """(module, destination head, source) of a flat index."""
        for name, heads, sources in self.modules():
            if edge < heads * sources:
                return name, edge // sources, edge % sources
            edge -= heads * sources
        raise IndexError(edge)
