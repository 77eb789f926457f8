# SPDX-License-Identifier: Apache-2.0
"""What stays on the daemon's device between calls: KV caches."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Union

from .v1 import cache_pb2

if TYPE_CHECKING:
    from ._client import Client


class KvCache:
    """The keys and values of tokens that many prompts begin with, from :meth:`Model.kv_cache`.

    One cache serves batches of any size. The daemon keeps it until it is deleted, its model is
    unloaded, or others need the room while nothing uses it. The attributes are as of when they were
    asked for; :meth:`refresh` asks again.
    """

    def __init__(self, client: "Client", proto: cache_pb2.KvCache):
        self.client = client
        self._set(proto)

    def _set(self, proto: cache_pb2.KvCache) -> None:
        self.id: str = proto.kv_cache_id
        """The handle."""
        self.model_id: str = proto.model_id
        """The model that it fits; no other variant."""
        self.tokens: tuple[int, ...] = tuple(proto.tokens)
        """The prefix."""
        self.bytes: int = proto.bytes
        """Bytes on the device."""
        self.hits: int = proto.hits
        """How often it was found and used."""
        self.last_use: datetime = datetime.fromtimestamp(proto.last_use_ms / 1000, timezone.utc)
        """When it was last used."""
        self.user_ids: tuple[str, ...] = tuple(proto.user_ids)
        """Graphs and jobs that hold on to it."""

    def refresh(self) -> "KvCache":
        """Asks the daemon how it stands; returns itself. Raises KeyError if it is gone."""
        request = cache_pb2.ListKvCachesRequest(model_id=self.model_id)
        for proto in self.client._pages("ListKvCaches", request, "kv_caches"):
            if proto.kv_cache_id == self.id:
                self._set(proto)
                return self
        raise KeyError(f"{self.id} was deleted, or made room for others")

    def delete(self) -> None:
        """Ends it. Raises :class:`ablate.FailedPreconditionError` (``KV_CACHE_IN_USE``)."""
        self.client._call("DeleteKvCache", cache_pb2.DeleteKvCacheRequest(kv_cache_id=self.id))

    def _repr_html_(self) -> str:
        from ._html import kv_cache

        return kv_cache(self)

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"<ablate.KvCache {self.id} over {self.model_id}: {len(self)} tokens, {self.hits} hits>"


KvCacheLike = Union[KvCache, str, None]
"""A KV cache, its handle, or none."""


def kv_cache_id(cache: KvCacheLike) -> str:
    """The handle; empty for none."""
    return cache.id if isinstance(cache, KvCache) else cache or ""
