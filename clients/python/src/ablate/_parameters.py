# SPDX-License-Identifier: Apache-2.0
"""A model's weights by TransformerLens's names, fetched when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence

from ._arrays import Array, collect_chunks
from .v1 import model_pb2

if TYPE_CHECKING:
    from ._model import Model


class Parameters(Mapping[str, Array]):
    """Weights by name, as the model computes with them (after processing), each fetched once.

    Iterating gives the names in the order of TransformerLens's ``state_dict``; ``shapes`` has theirs
    without fetching. With grouped queries the keys and values of each group are ``attn._W_K`` and so
    on; ``attn.W_K`` repeats them for every query head, and is found though not listed.
    """

    def __init__(self, model: "Model"):
        self._model = model
        self._arrays: dict[str, Array] = {}
        response = model.client._call(
            "ListParameters", model_pb2.ListParametersRequest(model_id=model.id)
        )
        self.shapes: dict[str, tuple[int, ...]] = {
            parameter.name: tuple(parameter.shape) for parameter in response.parameters
        }

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            self._arrays[name] = self._get(name)
        return self._arrays[name]

    def columns(self, name: str, indices: Sequence[int]) -> Array:
        """Some of a weight's last dimension, ``[..., len(indices)]``; only they are fetched.

        Raises :class:`ablate.InvalidArgumentError` (``PARAMETER_COLUMNS``) for one that there is not.
        """
        return self._get(name, indices)

    def _get(self, name: str, columns: Sequence[int] = ()) -> Array:
        request = model_pb2.GetParameterRequest(model_id=self._model.id, name=name, columns=columns)
        stream = self._model.client._call("GetParameter", request)
        ((_, array),) = collect_chunks((message.chunk for message in stream), self._model.client.arrays)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __repr__(self) -> str:
        return f"Parameters of {self._model.name!r}: {len(self)} names, {len(self._arrays)} fetched"


class Component:
    """A part of a model as TransformerLens names it: ``model.blocks[3].attn``, ``model.embed``.

    Its weights are attributes, fetched when they are read; ``dir()`` lists them.
    """

    def __init__(self, parameters: Parameters, prefix: str):
        self._parameters = parameters
        self._prefix = prefix

    def __dir__(self) -> list[str]:
        below = [name[len(self._prefix) :] for name in self._parameters if name.startswith(self._prefix)]
        return sorted({name.split(".")[0] for name in below})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        full = self._prefix + name
        if any(known.startswith(full + ".") for known in self._parameters):
            return Component(self._parameters, full + ".")
        repeated = self._prefix + "_" + name  # grouped keys and values, repeated by the daemon
        if full in self._parameters or repeated in self._parameters:
            return self._parameters[full]
        raise AttributeError(
            f"this model has no parameter {full!r}; {self._prefix.rstrip('.')} has {dir(self)}"
        )

    def __repr__(self) -> str:
        return f"{self._prefix.rstrip('.')}: {', '.join(dir(self))}"


class Blocks(Sequence[Component]):
    """``model.blocks``: one component a layer."""

    def __init__(self, parameters: Parameters, n_layers: int):
        self._parameters = parameters
        self._n_layers = n_layers

    def __len__(self) -> int:
        return self._n_layers

    def __getitem__(self, layer: Any) -> Any:
        if isinstance(layer, slice):
            return [self[i] for i in range(*layer.indices(self._n_layers))]
        index = layer + self._n_layers if layer < 0 else layer
        if not 0 <= index < self._n_layers:
            raise IndexError(f"the model has layers 0 to {self._n_layers - 1}, not {layer}")
        return Component(self._parameters, f"blocks.{index}.")
