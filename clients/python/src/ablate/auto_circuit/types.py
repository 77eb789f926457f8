# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.types``. Arrays are torch tensors where torch is importable, else numpy's."""

from __future__ import annotations

from enum import Enum
from typing import Any, Dict, List, Literal, Optional, Tuple, Union

from .._patchable import DestNode, Edge, Node, SrcNode
from .._topology import Wrapper
from .data import BatchKey

__all__ = [
    "AblationMeasurements",
    "AblationType",
    "AlgoKey",
    "AlgoMeasurements",
    "AlgoPruneScores",
    "AutoencoderInput",
    "BatchKey",
    "BatchOutputs",
    "COLOR_PALETTE",
    "CircuitOutputs",
    "DestNode",
    "Edge",
    "EdgeCounts",
    "MaskFn",
    "Measurements",
    "Node",
    "OutputSlice",
    "PatchType",
    "PatchWrapper",
    "PruneMetricKey",
    "PruneMetricMeasurements",
    "PruneScores",
    "SrcNode",
    "TaskKey",
    "TaskMeasurements",
    "TaskPruneScores",
    "TestEdges",
]

PatchWrapper = Wrapper
"""What is known of a wrapped module: names, source ranges, mask shape. The module is on the daemon."""

MaskFn = Optional[Literal["hard_concrete", "sigmoid"]]
"""What masks go through before they interpolate; None: nothing."""
AutoencoderInput = Literal["mlp_post_act", "resid_delta_mlp", "resid"]
"""Where a task's sparse autoencoder would be; the daemon has none."""
OutputSlice = Optional[Literal["last_seq", "not_first_seq"]]
"""Positions of the output that a task is about; None: all."""

COLOR_PALETTE = [
    f"rgb({red}, {green}, {blue})"
    for red, green, blue in (
        (55, 126, 184), (255, 127, 0), (77, 175, 74), (247, 129, 191), (228, 26, 28),
        (152, 78, 163), (166, 86, 40), (153, 153, 153), (222, 222, 0),
    )
]  # fmt: skip


class EdgeCounts(Enum):
    """Rules for the sizes of circuits."""

    ALL = 1
    """0, 1, 2, ..., every edge."""
    LOGARITHMIC = 2
    """1..9, 10, 20..90, 100, ..."""
    GROUPS = 3
    """One more group of tied scores each time."""


TestEdges = Union[EdgeCounts, List[Union[int, float]]]
"""A rule, or a list: ints are edge counts, floats are shares of all edges."""


class PatchType(Enum):
    """Which edges are ablated."""

    EDGE_PATCH = 1
    """Those in the circuit; the input is the corrupt prompt."""
    TREE_PATCH = 2
    """All others; the input is the clean prompt."""

    def __str__(self) -> str:
        return _title(self.name)


class AblationType(Enum):
    """What ablated edges carry."""

    RESAMPLE = 1
    """The activation on the other prompt of the pair."""
    ZERO = 2
    TOKENWISE_MEAN_CLEAN = 3
    """For each position, the mean over the clean prompts of the dataset."""
    TOKENWISE_MEAN_CORRUPT = 4
    TOKENWISE_MEAN_CLEAN_AND_CORRUPT = 5
    BATCH_TOKENWISE_MEAN = 6
    """For each position, the mean over the rows of the batch."""
    BATCH_ALL_TOK_MEAN = 7
    """The mean over its rows and positions."""

    def __str__(self) -> str:
        return _title(self.name)

    @property
    def mean_over_dataset(self) -> bool:
        """One mean, which all batches share."""
        return self.name.startswith("TOKENWISE_MEAN")

    @property
    def clean_dataset(self) -> bool:
        """A mean in which the clean prompts are."""
        return self.mean_over_dataset and "CLEAN" in self.name

    @property
    def corrupt_dataset(self) -> bool:
        """A mean in which the corrupt prompts are."""
        return self.mean_over_dataset and "CORRUPT" in self.name


def _title(name: str) -> str:
    return name.replace("_", " ").title()


PruneScores = Dict[str, Any]
"""Destination module -> float32 array ``[seq?, heads?, sources]``, a score for each edge."""
PruneMetricKey = str
TaskKey = str
AlgoKey = str
Measurements = List[Tuple[Union[int, float], Union[int, float]]]
"""(edge count, value) pairs."""
BatchOutputs = Dict[BatchKey, Any]
"""Batch key -> logits, ``[batch, d_vocab]`` at one position."""
CircuitOutputs = Dict[int, BatchOutputs]
"""Edge count -> outputs."""
AlgoPruneScores = Dict[AlgoKey, PruneScores]
TaskPruneScores = Dict[TaskKey, AlgoPruneScores]
AlgoMeasurements = Dict[AlgoKey, Measurements]
TaskMeasurements = Dict[TaskKey, AlgoMeasurements]
PruneMetricMeasurements = Dict[PruneMetricKey, TaskMeasurements]
AblationMeasurements = Dict[AblationType, PruneMetricMeasurements]
