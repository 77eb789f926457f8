# SPDX-License-Identifier: Apache-2.0
"""Attention patterns by head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

from .._arrays import to_numpy


@dataclass
class Maps:
    """Patterns of some heads of a layer."""

    heads: list[int]
    values: np.ndarray
    """``[head, q, k]``; NaN where the query cannot look."""
    tokens: list[str]


def shown(token: str) -> str:
    """A token with its spaces and line breaks visible."""
    return token.replace(" ", "·").replace("\n", "↵") or "∅"


def attention_maps(
    pattern: Any, tokens: Sequence[str] | None, heads: Sequence[int] | None, row: int
) -> Maps:
    """The chosen patterns, labelled."""
    values = to_numpy(pattern).astype(np.float64)
    if values.ndim == 4:
        values = values[row]
    if values.ndim != 3:
        raise ValueError(f"an attention pattern is [head, q, k] or [batch, head, q, k], not {values.shape}")
    chosen = list(range(values.shape[0])) if heads is None else [int(head) for head in heads]
    if any(not 0 <= head < values.shape[0] for head in chosen) or not chosen:
        raise ValueError(f"heads must be from 0 to {values.shape[0] - 1}, not {chosen}")
    values = values[chosen]
    length = values.shape[-1]
    if tokens is None:
        labels = [str(place) for place in range(length)]
    elif len(tokens) != length:
        raise ValueError(f"{len(tokens)} tokens for a pattern over {length} positions")
    else:
        labels = [shown(token) for token in tokens]
    queries = values.shape[-2]
    values = values.copy()
    values[:, np.triu(np.ones((queries, length), bool), k=1 + length - queries)] = np.nan
    return Maps(chosen, values, labels)


def grid(count: int) -> tuple[int, int]:
    """Rows and columns for so many panels."""
    columns = min(count, 4 if count != 9 else 3)
    return -(-count // columns), columns
