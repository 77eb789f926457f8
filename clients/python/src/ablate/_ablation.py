# SPDX-License-Identifier: Apache-2.0
"""What ablated edges carry: AutoCircuit's kinds, and ablations that stay on the daemon."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from tqdm.auto import tqdm

from ._arrays import Array, bos_policy, collect_chunks, encode_prompts, to_backend, to_numpy
from ._caches import KvCacheLike, kv_cache_id
from ._dataset import Dataset
from ._enums import ablation_value
from .v1 import cache_pb2, common_pb2

if TYPE_CHECKING:
    from ._client import Client


class AblationType(str, Enum):
    """AutoCircuit's kinds of ablation. The lower-case names are accepted as text, too."""

    RESAMPLE = "resample"
    """The activation on the other prompt of the pair."""
    ZERO = "zero"
    TOKENWISE_MEAN_CLEAN = "tokenwise_mean_clean"
    """For each position, the mean over the clean prompts of the dataset."""
    TOKENWISE_MEAN_CORRUPT = "tokenwise_mean_corrupt"
    TOKENWISE_MEAN_CLEAN_AND_CORRUPT = "tokenwise_mean_clean_and_corrupt"
    BATCH_TOKENWISE_MEAN = "batch_tokenwise_mean"
    """For each position, the mean over the rows of the batch of the other prompt."""
    BATCH_ALL_TOK_MEAN = "batch_all_tok_mean"
    """The mean over its rows and positions."""

    @property
    def mean_over_dataset(self) -> bool:
        """One mean, which all batches share."""
        return self.name.startswith("TOKENWISE_MEAN")


class PatchType(str, Enum):
    """Which edges a circuit ablates. The lower-case names are accepted as text, too."""

    EDGE_PATCH = "edge_patch"
    """Those in it; the input is the corrupt prompt."""
    TREE_PATCH = "tree_patch"
    """All others; the input is the clean prompt."""


class EdgeCounts(str, Enum):
    """AutoCircuit's rules for the sizes of a sweep's circuits."""

    ALL = "all"
    """0, 1, 2, ..., every edge."""
    LOGARITHMIC = "logarithmic"
    """1..9, 10, 20..90, 100, ..."""
    GROUPS = "groups"
    """One more group of tied scores each time."""


class ResidentAblation:
    """An ablation on the daemon, from :meth:`Model.create_ablation`: passes, jobs and sweeps take it
    as their ``ablation`` instead of making their own. Calls raise :class:`ablate.NotFoundError`
    (``ABLATION_UNKNOWN``) once it is deleted or its model unloaded.
    """

    def __init__(self, client: "Client", proto: cache_pb2.ResidentAblation):
        self.client = client
        self.id: str = proto.ablation_id
        """The handle."""
        self.model_id: str = proto.model_id
        self.dataset_id: str | None = proto.dataset_id or None
        """None for one made of prompts."""
        name = common_pb2.AblationType.Name(proto.type).removeprefix("ABLATION_TYPE_")
        self.type = AblationType[name]
        self.from_clean: bool = proto.from_clean
        self.prompt_count: int = proto.prompt_count
        """Prompts that went into it."""
        self.seq_len: int = proto.seq_len
        """It ablates prompts of this many tokens, BOS included, or tails of as many."""
        self.prefix_length: int = proto.prefix_length
        """Tokens of the prefix that it was made behind; it ablates passes behind one as long."""
        self.row_count: int = proto.row_count
        """1: a mean, for batches of any size; else a row for each prompt."""
        self.bytes: int = proto.bytes
        self.job_ids: list[str] = list(proto.job_ids)
        """Jobs that ran with it when this was asked."""
        self.provenance: common_pb2.Provenance = proto.provenance

    def __repr__(self) -> str:
        return (
            f"<ablate.ResidentAblation {self.id}: {self.type.name} of {self.prompt_count} prompts, "
            f"{self.seq_len} tokens>"
        )

    def _repr_html_(self) -> str:
        from ._html import ablation

        return ablation(self)

    def tensor(self) -> Array:
        """Every source's output: float32 ``[sources, rows, positions, d_model]``, Resid Start first."""
        request = cache_pb2.GetAblationRequest(ablation_id=self.id)
        chunks = (message.chunk for message in self.client._call("GetAblation", request))
        return dict(collect_chunks(chunks, self.client.arrays))["src_ablations"]

    def delete(self) -> None:
        """Ends it. Raises :class:`ablate.FailedPreconditionError` (``ABLATION_IN_USE``)."""
        self.client._call("DeleteAblation", cache_pb2.DeleteAblationRequest(ablation_id=self.id))


AblationLike = Union[str, AblationType, ResidentAblation]
"""What ablated edges carry: a kind, by name or as an :class:`AblationType`, or a resident one."""


def ablation_id(ablation: AblationLike | None) -> str:
    """The handle of a resident ablation; empty for the kinds."""
    return ablation.id if isinstance(ablation, ResidentAblation) else ""


def create_ablation(
    client: "Client",
    model_id: str,
    source: Any,
    type: str | AblationType,
    *,
    clean: bool = False,
    prompt_count: int | None = None,
    batch_size: int | None = None,
    prepend_bos: bool | None = None,
    tail_divergence: bool = False,
    kv_cache: KvCacheLike = None,
    progress: bool = True,
) -> ResidentAblation:
    """As :meth:`Model.create_ablation`."""
    request = cache_pb2.CreateAblationRequest(
        model_id=model_id,
        type=ablation_value(type),
        from_clean=clean,
        batch_size=batch_size or 0,
        tail_divergence=tail_divergence,
        kv_cache_id=kv_cache_id(kv_cache),
    )
    if isinstance(source, Dataset) or not _is_prompt(source):
        request.dataset_id = client.upload_dataset(source).id
        request.prompt_count = prompt_count or 0
        request.bos = bos_policy(prepend_bos)
    else:
        request.prompts.CopyFrom(encode_prompts(source, prepend_bos))
    made = None
    with client._call("CreateAblation", request) as stream, tqdm(
        desc="ablation", unit="pass", disable=not progress
    ) as bar:
        for message in stream:
            bar.total = message.total_count
            bar.update(message.done_count - bar.n)
            if message.HasField("ablation"):
                made = ResidentAblation(client, message.ablation)
    assert made is not None, "the stream ends with the ablation, or with an error"
    return made


def _is_prompt(source: Any) -> bool:
    """Prompts in hand: texts in a list, or ids; a text by itself, a path or a dict is a dataset."""
    if isinstance(source, (list, tuple)):
        return True
    return hasattr(source, "shape")


def src_ablations(
    client: "Client", model_id: str, sample: Any, ablation_type: str | AblationType
) -> Array:
    """As :meth:`Model.src_ablations`."""
    kind = AblationType(ablation_type.lower())
    zero = kind is AblationType.ZERO
    made = create_ablation(
        client, model_id, sample, AblationType.RESAMPLE if zero else kind, progress=False
    )
    try:
        array = to_numpy(made.tensor())
        rows = made.prompt_count if _is_prompt(sample) else made.row_count
    finally:
        made.delete()
    if zero:
        array = np.zeros_like(array)
    if array.shape[1] != rows:
        array = np.repeat(array, rows, axis=1)
    return to_backend(array, client.arrays)
