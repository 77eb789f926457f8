# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.utils.patchable_model``."""

from __future__ import annotations

from typing import Any, Iterator, Mapping, Optional

import numpy as np

from ..._arrays import Array, to_backend, to_numpy
from ..._client import Client
from ..._loss import ReturnType
from ..._patchable import PatchableModel as _PatchableModel


class PatchableModel(_PatchableModel):
    """:class:`ablate.PatchableModel` as AutoCircuit's scripts use it: behind ``kv_caches`` prompts are
    given without their prefix, and masks can be assigned to.
    """

    @property
    def client(self) -> Client:
        """The connection to the daemon."""
        return self.graph.client

    @property
    def prefix(self) -> tuple[int, ...]:
        """The tokens that ``kv_caches`` stand for, which every prompt begins with."""
        return self.kv_caches[1].tokens if self.kv_caches is not None else ()

    def whole(self, tokens: Any) -> Any:
        """Prompts with the prefix in front, as the daemon takes them: int64 ``[batch, prefix + seq]``."""
        if not self.prefix:
            return tokens
        rows = np.atleast_2d(to_numpy(tokens))
        prefix = np.broadcast_to(np.array(self.prefix, rows.dtype), (len(rows), len(self.prefix)))
        return np.concatenate([prefix, rows], axis=1)

    def forward(
        self, input: Any, return_type: ReturnType = "logits", loss_per_token: bool = False, **options: Any
    ) -> Any:
        """Logits at every position of ``input``, ``[batch, seq, d_vocab]``; in ``train_mask_mode`` and
        ``patch_mode`` at the last one, ``[batch, 1, d_vocab]``, for gradients go through that one alone.
        """
        if self.graph._trained is None or self._patch is None:
            return super().forward(self.whole(input), return_type, loss_per_token, **options)
        if self._slice_output != "last_seq":
            raise ValueError("masks are trained on the last position's logits: make the model with 'last_seq'")
        logits = self.graph.forward(self.whole(input), slice_output="last_seq", **self._patch, **options)
        return self._returned(logits[:, None], input, return_type, loss_per_token, options)

    def run_with_cache(self, input: Any, names_filter: Any = None, **options: Any) -> tuple[Any, Any]:
        """(logits, activations), as :meth:`ablate.Graph.run_with_cache`; prompts without their prefix."""
        return super().run_with_cache(self.whole(input), names_filter, **options)

    def input_to_embed(self, input: Any, **options: Any) -> Any:
        """As :meth:`ablate.Model.input_to_embed`; prompts without their prefix."""
        return super().input_to_embed(self.whole(input), **options)

    @property
    def patch_masks(self) -> dict[str, Any]:
        """The masks by destination module: :class:`MaskView`, or torch's parameters in
        ``train_mask_mode``."""
        if self.graph._trained is not None:
            return self.graph._trained.parameters
        return {name: MaskView(self, name) for name in self.graph.modules}

    def set_patch_masks(self, masks: Mapping[Any, Any] | float) -> int:
        """As :meth:`ablate.PatchableModel.set_patch_masks`; in ``train_mask_mode`` one number, for the
        parameters. Raises ValueError for a mapping there.
        """
        trained = self.graph._trained
        if trained is None:
            return super().set_patch_masks(masks)
        if isinstance(masks, Mapping):
            raise ValueError("in train_mask_mode masks are the parameters: assign to their .data")
        for parameter in trained.parameters.values():
            parameter.data.fill_(float(masks))
        return self.n_edges if masks else 0

    def eval(self) -> "PatchableModel":
        """Itself: a model on the daemon is never in training."""
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of masks in ``train_mask_mode``; weights have none."""
        if self.graph._trained is not None:
            for parameter in self.graph._trained.parameters.values():
                parameter.grad = None


class MaskView:
    """The mask of one destination module, which is on the daemon: reading an element or the array
    fetches it, assigning sends it. ``.data`` is itself, as far as AutoCircuit's scripts look.
    """

    def __init__(self, model: PatchableModel, module_name: str):
        self._model = model
        self._module_name = module_name

    @property
    def shape(self) -> tuple[int, ...]:
        """``[seq?, heads?, sources]``."""
        return self._model.graph.modules[self._module_name]

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    @property
    def data(self) -> "MaskView":
        """Itself; what is assigned goes to the daemon."""
        return self

    @data.setter
    def data(self, values: Any) -> None:
        self[...] = values

    def detach(self) -> Array:
        """The array as it is now, a copy of :attr:`shape`: torch's where torch is importable."""
        return to_backend(self.__array__(), self._model.client.arrays)

    clone = detach

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> np.ndarray:
        values = to_numpy(self._model.graph.get_patch_mask()[self._module_name])
        return values if dtype is None else values.astype(dtype)

    def __getitem__(self, index: Any) -> Any:
        return self.detach()[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        values = self.__array__().copy()
        values[index] = to_numpy(value)
        self._model.graph.set_patch_mask({self._module_name: values})

    def __iter__(self) -> Iterator[Any]:
        return iter(self.detach())

    def __len__(self) -> int:
        return self.shape[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.detach(), name)

    def __repr__(self) -> str:
        return f"<mask of {self._module_name}, {list(self.shape)}, on the daemon>"
