# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.utils.ablation_activations``: what ablated edges carry, on the daemon."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any, Dict, Literal, Optional, Union

import numpy as np

from ..._ablation import ResidentAblation
from ..._arrays import Array, to_backend, to_numpy
from ...errors import AblateError
from .._missing import missing_from
from ..data import BatchKey, PromptDataLoader
from ..types import AblationType
from .patchable_model import PatchableModel


class SrcAblations:
    """An ablation that is on the daemon, for ``patch_mode``; it ends there with this object. As an array
    (:meth:`tensor`, indexing, ``numpy.asarray``) it is fetched: float32 ``[sources, batch, seq, d_model]``.
    """

    def __init__(self, ablation: Union[str, ResidentAblation], shape: tuple[int, ...], arrays: Any = "auto"):
        self.ablation = ablation
        """The resident one, or ``"zero"``, of which nothing is kept."""
        self.shape = shape
        self._arrays = arrays

    @classmethod
    def of(cls, source: Any) -> "SrcAblations":
        """What ``patch_mode`` takes. Raises TypeError for a tensor of one's own."""
        if isinstance(source, SrcAblations):
            return source
        if isinstance(source, ResidentAblation):
            return cls(source, ())
        raise TypeError(
            f"patch_src_outs is a {type(source).__name__}, but what edges carry is on the daemon: give the result "
            "of src_ablations, or an ablation of Model.create_ablation"
        )

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    def tensor(self) -> Array:
        """The array itself, fetched from the daemon: float32 ``[sources, batch, positions, d_model]``."""
        if isinstance(self.ablation, str):
            return to_backend(np.zeros(self.shape, np.float32), self._arrays)
        array = to_numpy(self.ablation.tensor())
        if self.shape and array.shape[1] != self.shape[1]:  # a mean: one row for all
            array = np.repeat(array, self.shape[1], axis=1)
        return to_backend(array, self._arrays)

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> np.ndarray:
        return to_numpy(self.tensor()).astype(dtype or np.float32, copy=False)

    def __getitem__(self, index: Any) -> Any:
        return self.tensor()[index]

    def __len__(self) -> int:
        return self.shape[0]

    def clone(self) -> "SrcAblations":
        """Itself: what is on the daemon is never written to."""
        return self

    detach = clone

    def __repr__(self) -> str:
        return f"<src_ablations of {list(self.shape)} on the daemon: {self.ablation}>"


def _end(ablation: ResidentAblation) -> None:
    """For an ablation whose last user is gone; so may be its daemon."""
    with contextlib.suppress(AblateError, ValueError):
        ablation.delete()


def _made(model: PatchableModel, source: Any, shape: tuple[int, ...], kind: AblationType) -> SrcAblations:
    cache = model.kv_caches[1] if model.kv_caches is not None else None
    ablation = model.wrapped_model.create_ablation(
        source, kind.name.lower(), prepend_bos=False, kv_cache=cache, progress=False
    )
    handle = SrcAblations(ablation, (len(model.srcs), *shape, model.cfg.d_model), model.client.arrays)
    weakref.finalize(handle, _end, ablation)
    return handle


def src_ablations(
    model: PatchableModel,
    sample: Union[Array, PromptDataLoader],
    ablation_type: AblationType = AblationType.RESAMPLE,
) -> SrcAblations:
    """What ablated edges carry: ``[sources, batch, seq, d_model]``, made and kept on the daemon.

    ``sample``: ids ``[batch, seq]``, or a loader for the means over a dataset.

    Raises TypeError for a loader where a batch is wanted, or the reverse.
    """
    is_loader = isinstance(sample, PromptDataLoader)
    if ablation_type.mean_over_dataset != is_loader:
        wanted = "a PromptDataLoader, which it is the mean of" if not is_loader else "the ids of a batch"
        raise TypeError(f"{ablation_type.name} needs {wanted}")
    if isinstance(sample, PromptDataLoader):
        source = sample.resident(model.client, bool(model.prefix))
        batch = next(iter(sample)).clean
        return _made(model, source, tuple(batch.shape), ablation_type)
    rows = np.atleast_2d(to_numpy(sample))
    if ablation_type is AblationType.ZERO:
        return SrcAblations("zero", (len(model.srcs), *rows.shape, model.cfg.d_model), model.client.arrays)
    return _made(model, model.whole(rows), rows.shape, ablation_type)


def batch_src_ablations(
    model: PatchableModel,
    dataloader: PromptDataLoader,
    ablation_type: AblationType = AblationType.RESAMPLE,
    clean_corrupt: Optional[Literal["clean", "corrupt"]] = None,
) -> Dict[BatchKey, SrcAblations]:
    """:func:`src_ablations` of each batch, by its key.

    Raises ValueError where ``clean_corrupt``, which prompts ablate, is missing or has no meaning.
    """
    check_clean_corrupt(ablation_type, clean_corrupt)
    if ablation_type.mean_over_dataset:
        mean = src_ablations(model, dataloader, ablation_type)
        return {batch.key: mean for batch in dataloader}
    return {
        batch.key: src_ablations(
            model, batch.corrupt if clean_corrupt == "corrupt" else batch.clean, ablation_type
        )
        for batch in dataloader
    }


def check_clean_corrupt(ablation_type: AblationType, clean_corrupt: Optional[str]) -> None:
    """ValueError where ``clean_corrupt`` is missing or has no meaning."""
    is_of_batch = not ablation_type.mean_over_dataset and ablation_type is not AblationType.ZERO
    if is_of_batch and clean_corrupt not in ("clean", "corrupt"):
        raise ValueError(f"{ablation_type.name} needs clean_corrupt: 'clean' or 'corrupt', the prompts that ablate")
    if not is_of_batch and clean_corrupt is not None:
        raise ValueError(f"{ablation_type.name} has no clean_corrupt: give None")


__getattr__ = missing_from(__name__)
