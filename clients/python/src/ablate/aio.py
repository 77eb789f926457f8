# SPDX-License-Identifier: Apache-2.0
"""The main calls for asyncio: ``async with await ablate.aio.connect() as client``.

Requests are built and answers decoded by the classes of the plain client; here is only the waiting.
``.sync`` of each object is what it wraps, whose names, shapes and ids are plain attributes.
"""

from __future__ import annotations

import os
from typing import Any, AsyncIterator, Sequence

import grpc

from ._arrays import Array, Backend, Prompt
from ._client import DEFAULT_HOST, Client, Mode, load_request, skew
from ._dataset import Dataset, DatasetLike, dataset_bytes
from ._graph import Graph, Scores, SizesLike, make_sweep, metric_values
from ._jobs import Algorithm, Job, JobEvent, PruneScores, make_spec
from ._measure import Evaluation
from ._model import Model
from ._rpc import Channel, from_rpc_error
from ._version import PROTOCOL, VERSION
from .errors import AblateError, UnavailableError, VersionSkewError
from .v1 import admin_pb2, dataset_pb2, evaluate_pb2, graph_pb2, prune_pb2

__all__ = ["AsyncClient", "AsyncGraph", "AsyncModel", "AsyncPruneStream", "connect"]


class _Replies(Client):
    """What the plain classes see as their client: it has answers and cannot ask."""

    def __init__(self, host: str, arrays: Backend):
        self.host = host
        self.arrays = arrays

    def _call(self, method: str, request: Any) -> Any:
        raise TypeError(f"{method} would block; use the plain client for what ablate.aio does not have")

    def _pages(self, method: str, request: Any, field: str) -> Any:
        return self._call(method, request)


async def connect(
    host: str | None = None, *, arrays: Backend = "auto", timeout: float | None = 10.0
) -> "AsyncClient":
    """Connects to a daemon, as :func:`ablate.connect` does. Raises :class:`ablate.UnavailableError` and
    :class:`ablate.VersionSkewError`.
    """
    client = AsyncClient(host or os.environ.get("ABLATE_HOST") or DEFAULT_HOST, arrays)
    try:
        info = await client._call("GetServerInfo", admin_pb2.GetServerInfoRequest(), timeout)
        if problem := skew(VERSION, PROTOCOL, info.version, info.protocol):
            raise VersionSkewError(problem, "VERSION_SKEW")
    except BaseException:
        await client.close()
        raise
    return client


class AsyncClient:
    """A connection to a daemon, from :func:`connect`; of the event loop that made it."""

    def __init__(self, host: str, arrays: Backend = "auto"):
        self.sync: Client = _Replies(host, arrays)
        self._channel = Channel(host, grpc.aio.insecure_channel)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection. Graphs and jobs live on in the daemon."""
        await self._channel.close()

    async def load(self, name: str, mode: Mode = "hf", *, dtype: str = "float32", device: str = "") -> "AsyncModel":
        """Makes a model resident; arguments and errors as :meth:`Client.load_model`."""
        async for message in self._stream("LoadModel", load_request(name, mode, dtype, device)):
            if message.HasField("model"):
                return AsyncModel(self, Model(self.sync, message.model))
        raise UnavailableError(f"the daemon ended the load of {name!r} without a model")

    async def upload_dataset(self, source: DatasetLike, name: str | None = None) -> Dataset:
        """Keeps a dataset; arguments and errors as :meth:`Client.upload_dataset`."""
        if isinstance(source, Dataset):
            return source
        label, data = dataset_bytes(source)
        request = dataset_pb2.UploadDatasetRequest(name=name or label, json=data)
        return Dataset(self.sync, (await self._call("UploadDataset", request)).dataset)

    async def evaluate(
        self,
        scores: Scores,
        edge_counts: SizesLike = None,
        metrics: Sequence[str] | None = None,
        *,
        dataset: DatasetLike | None = None,
        **options: Any,
    ) -> Evaluation:
        """How faithful circuits of several sizes are; arguments, rows and errors as
        :meth:`Client.evaluate`, without a bar.
        """
        defaults: dict[str, Any] = {
            "patch_type": "tree_patch", "ablation": "resample", "reverse_clean_corrupt": False,
            "batch_size": None, "prompt_count": None,
        }  # fmt: skip
        dataset_id = (await self.upload_dataset(dataset)).id if dataset is not None else ""
        sweep = make_sweep(scores, dataset_id=dataset_id, edge_counts=edge_counts, **(defaults | options))
        request = evaluate_pb2.EvaluateCircuitsRequest(sweep=sweep, metrics=metric_values(metrics))
        rows = Evaluation()
        async for message in self._stream("EvaluateCircuits", request):
            if not message.HasField("progress"):
                rows._add(message)
        return rows

    async def _call(self, method: str, request: Any, timeout: float | None = None) -> Any:
        try:
            return await self._channel.start(method, request, timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    async def _stream(self, method: str, request: Any) -> AsyncIterator[Any]:
        call = self._channel.start(method, request)
        try:
            async for message in call:
                yield message
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()


class AsyncModel:
    """A resident model, from :meth:`AsyncClient.load`."""

    def __init__(self, client: AsyncClient, sync: Model):
        self.client = client
        self.sync = sync
        self.id = sync.id
        self.cfg = sync.cfg

    def __repr__(self) -> str:
        return f"<async {self.sync!r}>"

    async def forward(self, input: Prompt, **options: Any) -> Array:
        """Logits; options, shapes and errors as :meth:`Model.forward`."""
        logits, _ = await self.run_with_cache(input, [], **options)
        return logits

    async def run_with_cache(
        self, input: Prompt, names_filter: str | Sequence[str] | None = None, **options: Any
    ) -> tuple[Array | None, Any]:
        """Logits and activations, all of which come at once; options, shapes and errors as
        :meth:`Model.run_with_cache`. TypeError for a predicate, ``pos_slice`` with a slice or
        ``keep_on_server``, which would have to ask again.
        """
        if callable(names_filter) or options.get("keep_on_server"):
            raise TypeError("ablate.aio takes names, and activations that come here; see the plain client")
        request = self.sync._cache_request(input, names_filter, **options)
        messages = [message async for message in self.client._stream("RunWithCache", request)]
        return self.sync._read_cache(iter(messages), False)

    async def graph(self, **options: Any) -> "AsyncGraph":
        """A graph over this model; options as :meth:`Model.graph`."""
        response = await self.client._call("CreateGraph", self.sync._graph_request(**options))
        return AsyncGraph(self.client, Graph(self.sync, response.graph))


class AsyncGraph:
    """A graph, from :meth:`AsyncModel.graph`."""

    def __init__(self, client: AsyncClient, sync: Graph):
        self.client = client
        self.sync = sync
        self.id = sync.id
        self.edge_count = sync.edge_count

    def __repr__(self) -> str:
        return f"<async {self.sync!r}>"

    async def stream_prune_scores(
        self,
        dataset: DatasetLike,
        algo: str | Algorithm = "eap",
        *,
        batch_size: int | None = None,
        prompt_count: int | None = None,
        prepend_bos: bool | None = None,
        tail_divergence: bool = False,
        top_k: int = 10,
    ) -> "AsyncPruneStream":
        """Partial results while the scores form; arguments and errors as
        :meth:`Graph.stream_prune_scores`. Leaving the ``async with`` block cancels the job.
        """
        spec = make_spec(
            self.id, (await self.client.upload_dataset(dataset)).id, algo, batch_size=batch_size,
            prompt_count=prompt_count, prepend_bos=prepend_bos, tail_divergence=tail_divergence, top_k=top_k,
        )  # fmt: skip
        request = prune_pb2.StreamPruneScoresRequest(spec=spec)
        stream = self.client._stream("StreamPruneScores", request)
        first = await anext(stream)
        return AsyncPruneStream(Job(self.sync.client, first.created), stream)

    async def prune_scores(self, dataset: DatasetLike, algo: str | Algorithm = "eap", **options: Any) -> PruneScores:
        """A score for every edge; arguments, shapes and errors as :meth:`Graph.prune_scores`."""
        async with await self.stream_prune_scores(dataset, algo, **options) as stream:
            return await stream.scores()

    async def delete(self) -> None:
        """Ends the graph, as :meth:`Graph.delete`."""
        await self.client._call("DeleteGraph", graph_pb2.DeleteGraphRequest(graph_id=self.id))


class AsyncPruneStream:
    """A running job's partial results: ``async for event in stream``, then ``await stream.scores()``."""

    def __init__(self, job: Job, stream: Any):
        self.job = job
        """The job; its state is that of the last message."""
        self._stream = stream
        self._messages: list[Any] = []
        self._top: tuple[Any, ...] = ()

    def __aiter__(self) -> "AsyncPruneStream":
        return self

    async def __anext__(self) -> JobEvent:
        async for message in self._stream:
            if message.HasField("event"):
                event = JobEvent._from_proto(message.event)
                self._top = event.top_edges or self._top
                return event
            if message.HasField("ended"):
                self.job._proto = message.ended
            else:
                self._messages.append(message.scores)
        raise StopAsyncIteration

    async def scores(self) -> PruneScores:
        """The final scores. Raises :class:`AblateError` (``JOB_FAILED``) if the job failed."""
        async for _ in self:
            pass
        if self.job.state == "failed":
            raise AblateError(self.job.error, "JOB_FAILED")
        return PruneScores._from_chunks(self._messages, self.job, self._top)

    async def close(self) -> None:
        """Cancels the job unless it has ended."""
        await self._stream.aclose()

    async def __aenter__(self) -> "AsyncPruneStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
