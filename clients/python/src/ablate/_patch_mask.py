# SPDX-License-Identifier: Apache-2.0
"""A graph's patch mask: which edges are ablated, and how far."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Iterator, Mapping, TypeVar

from ._ablation import PatchType
from ._arrays import Array, collect_chunks, encode_float
from ._enums import enum_value
from ._jobs import Scores, job_id_of
from ._topology import EdgeKey, edge_values
from .v1 import common_pb2, mask_pb2

if TYPE_CHECKING:
    from ._client import Client

# Mask tensors in one request; below the daemon's limit of a message.
_MASK_REQUEST_BYTES = 8 << 20
_EDGES_A_REQUEST = 100_000

Masked = TypeVar("Masked", bound="PatchMask")


class PatchMask:
    """The part of :class:`Graph` that sets and reads its mask."""

    client: "Client"
    id: str
    modules: dict[str, tuple[int, ...]]

    def set_patch_mask(
        self, mask: Mapping[Any, Any] | float, *, reset_others: bool = False
    ) -> int:
        """Sets the mask, whole or in part; returns how many edges are masked now.

        ``mask`` is one number for every edge; or edges (:data:`EdgeKey`) with a number each; or module
        names with an array each, shaped as in :attr:`modules`, behind a leading dimension where the mask
        has rows for prompts (without it: every row). What is not named keeps its value; ``reset_others``
        sets it to 0.

        Raises :class:`ablate.InvalidArgumentError` (``EDGE_NOT_IN_GRAPH``, ``MASK_NOT_FINITE``,
        ``TENSOR_SHAPE``) and :class:`ablate.NotFoundError` (``NODE_UNKNOWN``); nothing is set then.
        """
        if isinstance(mask, Mapping):
            if mask and all(isinstance(k, str) and "->" not in k for k in mask):
                return self._set_modules(mask, reset_others)
            return self._set_edges(mask, reset_others)
        return self._set(mask_pb2.SetPatchMaskRequest(graph_id=self.id, all=float(mask)))

    def set_circuit(
        self,
        scores: Scores,
        *,
        edge_count: int | None = None,
        threshold: float | None = None,
        patch_type: str | PatchType = "tree_patch",
    ) -> int:
        """Masks a circuit: the ``edge_count`` edges of largest |score|, or those at or above
        ``threshold``. ``tree_patch`` masks all other edges, ``edge_patch`` these.
        """
        if (edge_count is None) == (threshold is None):
            raise ValueError("give edge_count or threshold")
        circuit = mask_pb2.CircuitMask(
            job_id=job_id_of(scores),
            patch_type=enum_value(common_pb2.PatchType, "PATCH_TYPE_", patch_type),
        )
        if edge_count is not None:
            circuit.edge_count = edge_count
        elif threshold is not None:
            circuit.threshold = float(threshold)
        return self._set(mask_pb2.SetPatchMaskRequest(graph_id=self.id, circuit=circuit))

    def get_patch_mask(self) -> dict[str, Array]:
        """The mask: float32 arrays by module, shaped as in :attr:`modules`."""
        stream = self.client._call("GetPatchMask", mask_pb2.GetPatchMaskRequest(graph_id=self.id))
        return dict(collect_chunks((message.chunk for message in stream), self.client.arrays))

    def reset_patch_mask(self) -> None:
        """Sets every mask value to 0."""
        self.client._call("ResetPatchMask", mask_pb2.ResetPatchMaskRequest(graph_id=self.id))

    @contextlib.contextmanager
    def patched(self: Masked, mask: Mapping[Any, Any] | float) -> Iterator[Masked]:
        """Sets a mask for the length of a ``with`` block (all else 0), then restores the old one."""
        before = self.get_patch_mask()
        self.set_patch_mask(mask, reset_others=True)
        try:
            yield self
        finally:
            self.set_patch_mask(before)

    def _set_edges(self, mask: Mapping[EdgeKey, float], reset_others: bool) -> int:
        values = edge_values(mask)
        masked = 0
        for start in range(0, max(len(values), 1), _EDGES_A_REQUEST):
            edges = mask_pb2.EdgeMask(
                edges=values[start : start + _EDGES_A_REQUEST],
                reset_others=reset_others and start == 0,
            )
            masked = self._set(mask_pb2.SetPatchMaskRequest(graph_id=self.id, edges=edges))
        return masked

    def _set_modules(self, mask: Mapping[str, Array], reset_others: bool) -> int:
        if reset_others and any(name not in mask for name in self.modules):
            self._set(mask_pb2.SetPatchMaskRequest(graph_id=self.id, all=0.0))
        masked, part, size = 0, mask_pb2.ModuleMask(), 0
        last = len(mask) - 1
        for position, (name, array) in enumerate(mask.items()):
            tensor = mask_pb2.NamedTensor(name=name, tensor=encode_float(array))
            size += len(tensor.tensor.data)
            part.tensors.append(tensor)
            if size > _MASK_REQUEST_BYTES or position == last:
                masked = self._set(mask_pb2.SetPatchMaskRequest(graph_id=self.id, modules=part))
                part, size = mask_pb2.ModuleMask(), 0
        return masked

    def _set(self, request: mask_pb2.SetPatchMaskRequest) -> int:
        response: mask_pb2.SetPatchMaskResponse = self.client._call("SetPatchMask", request)
        return response.masked_edge_count
