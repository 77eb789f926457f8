# SPDX-License-Identifier: Apache-2.0
"""What a graph's mask is besides its values: its function, its rows, and its gradient."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Iterator

from . import _passes
from ._arrays import Array, Prompt, collect_chunks, encode_float, to_numpy
from ._training import MaskFn, mask_fn_name, mask_fn_value
from .v1 import graph_pb2, mask_pb2, run_pb2

if TYPE_CHECKING:
    from ._client import Client


class MaskRows:
    """The mask's rows for the length of a ``with`` block, from :meth:`Graph.set_mask_batch_size`."""

    def __init__(self, graph: "MaskModes"):
        self._graph = graph

    def __enter__(self) -> Any:
        return self._graph

    def __exit__(self, *_: object) -> None:
        self._graph.set_mask_batch_size(None)


class MaskModes:
    """The part of :class:`Graph` that says how its mask acts in a pass."""

    client: "Client"
    id: str
    modules: dict[str, tuple[int, ...]]
    _trained: "MaskTraining | None" = None

    def set_mask_fn(self, mask_fn: MaskFn | None, dropout_p: float = 0.0) -> None:
        """What the mask goes through in every patched pass: ``"sigmoid"``, ``"hard_concrete"`` (random:
        drawn anew for each prompt, by the pass's seed), or None; then each value is dropped with
        probability ``dropout_p`` (0 to 0.99).
        """
        request = mask_pb2.SetMaskFunctionRequest(
            graph_id=self.id, function=mask_fn_value(mask_fn), dropout_p=dropout_p
        )
        self.client._call("SetMaskFunction", request)

    @contextlib.contextmanager
    def mask_fn_mode(self, mask_fn: MaskFn | None, dropout_p: float = 0.0) -> Iterator[Any]:
        """:meth:`set_mask_fn` for the length of a ``with`` block, then what it was before; AutoCircuit's
        function of that name."""
        before = self.mask_fn
        self.set_mask_fn(mask_fn, dropout_p)
        try:
            yield self
        finally:
            self.set_mask_fn(*before)

    def set_mask_batch_size(self, batch_size: int | None) -> MaskRows:
        """Gives the mask a row for each of ``batch_size`` prompts, all as the first one is now; patched
        passes then take so many prompts, and masks and gradients have a leading dimension. None: one
        mask for all. In a ``with`` statement None is restored, as with AutoCircuit's function.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError("batch_size must be 1 or more, or None")
        request = mask_pb2.SetMaskBatchSizeRequest(graph_id=self.id, batch_size=batch_size or 0)
        self.client._call("SetMaskBatchSize", request)
        return MaskRows(self)

    @property
    def mask_batch_size(self) -> int | None:
        """Rows of the mask; None: one for all prompts."""
        return self._described().mask_batch_size or None

    @property
    def mask_fn(self) -> tuple[MaskFn | None, float]:
        """What the mask goes through, and the chance that a value is dropped: :meth:`set_mask_fn`."""
        graph = self._described()
        return mask_fn_name(graph.mask_function), graph.mask_dropout_p

    def _described(self) -> graph_pb2.Graph:
        response: graph_pb2.GetGraphResponse = self.client._call(
            "GetGraph", graph_pb2.GetGraphRequest(graph_id=self.id)
        )
        return response.graph

    def mask_backward(
        self,
        /,
        input: Prompt,
        logits_gradient: Array,
        *,
        seed: int = 0,
        **forward: Any,
    ) -> dict[str, Array]:
        """d loss / d mask by module, shaped as the mask, from ``logits_gradient``: d loss / d logits at
        the last position, ``[batch, d_vocab]``. ``input``, ``seed`` and the other options are those of
        the :meth:`forward` that gave the logits; with a row for each prompt (:meth:`set_mask_batch_size`)
        the gradient is each prompt's own.
        """
        request = self._pass_request(input, seed, **forward)
        return self._mask_backward(request, logits_gradient)

    def _pass_request(self, input: Prompt, seed: int, **forward: Any) -> run_pb2.ForwardRequest:
        raise NotImplementedError  # the graph's

    def _mask_backward(self, request: run_pb2.ForwardRequest, gradient: Array) -> dict[str, Array]:
        message = mask_pb2.MaskBackwardRequest(forward=request, logits_gradient=encode_float(gradient))
        stream = self.client._call("MaskBackward", message)
        return dict(collect_chunks((part.chunk for part in stream), self.client.arrays))

    @contextlib.contextmanager
    def train_mask_mode(self) -> Iterator[dict[str, Any]]:
        """Masks as torch parameters by module, for an optimizer of one's own: in this block patched
        passes take their masks from the parameters, and ``loss.backward()`` on their logits fills the
        gradients. AutoCircuit's function of that name. The masks stay as trained. Needs torch.
        """
        if self._trained is not None:
            raise RuntimeError("train_mask_mode is entered already")
        self._trained = MaskTraining(self)
        try:
            yield self._trained.parameters
            self._trained.push()
        finally:
            self._trained = None


class MaskTraining:
    """A graph's masks as torch parameters, and passes that autograd goes through."""

    def __init__(self, graph: Any):
        import torch

        self._graph = graph
        self._seed = 0
        self.parameters: dict[str, Any] = {
            name: torch.nn.Parameter(torch.from_numpy(to_numpy(array).copy()))
            for name, array in graph.get_patch_mask().items()
        }

    def push(self) -> None:
        """The parameters' values to the daemon."""
        self._graph.set_patch_mask(self.parameters)

    def forward(self, request: run_pb2.ForwardRequest) -> Any:
        """The logits as a torch tensor whose gradient goes to the parameters. Passes without a seed get
        one after the other, so that random masks are drawn anew each time.
        """
        if request.seed == 0:
            self._seed += 1
            request.seed = self._seed
        import torch

        training = self
        names = list(self.parameters)

        # torch need not be there for the types to be checked.
        class PatchedPass(torch.autograd.Function):  # type: ignore[misc]
            @staticmethod
            def forward(context: Any, *masks: Any) -> Any:
                training.push()
                logits = _passes.forward(training._graph.model, request)
                return torch.as_tensor(to_numpy(logits))

            @staticmethod
            def backward(context: Any, gradient: Any) -> Any:
                by_name = training._graph._mask_backward(request, gradient)
                return tuple(torch.as_tensor(to_numpy(by_name[name])) for name in names)

        return PatchedPass.apply(*self.parameters.values())
