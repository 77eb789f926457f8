# SPDX-License-Identifier: Apache-2.0
"""The client for asyncio: ``async with await ablate.aio.connect() as client``.

Each call is the plain client's, with its arguments, results and errors, waited for in a thread of the
client's own: the event loop stays free, also while large arrays are put together. Cancelling the task
that awaits a call cancels the call on the daemon. No bars are drawn.

Models, graphs and jobs have an asynchronous class each. What is small comes as the plain client has it
(datasets, caches, hooks, scores), and what such an object asks the daemon for goes through
:meth:`AsyncClient.run`: ``await client.run(dataset.delete)``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import (
    Any,
    AsyncContextManager,
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Concatenate,
    ContextManager,
    Coroutine,
    Generic,
    Iterable,
    ParamSpec,
    TypeVar,
)

from . import _client
from ._arrays import Array, Backend, Prompt
from ._client import Client
from ._config import HookPoint, ModelConfig
from ._graph import Graph
from ._interop import PathLike
from ._jobs import EdgeScore, Job, JobEvent, PruneScores, PruneStream
from ._model import Model
from ._rpc import Calls
from ._topology import Edge, Node, Wrapper
from ._training import MaskFn

__all__ = ["AsyncClient", "AsyncGraph", "AsyncJob", "AsyncModel", "AsyncPruneStream", "connect"]

# Calls that wait at a time; a call more waits for one of them.
_THREADS = 64

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=Any)
W = TypeVar("W", bound="_Async[Any]")


async def connect(
    host: str | None = None,
    *,
    arrays: Backend = "auto",
    timeout: float | None = 10.0,
    tls_ca: PathLike | None = None,
    client_cert: PathLike | None = None,
    client_key: PathLike | None = None,
) -> "AsyncClient":
    """Connects to a daemon; arguments and errors as :func:`ablate.connect`."""
    pool = ThreadPoolExecutor(_THREADS, "ablate-aio")
    work = functools.partial(
        _client.connect, host, arrays=arrays, timeout=timeout, tls_ca=tls_ca, client_cert=client_cert,
        client_key=client_key,
    )  # fmt: skip
    try:
        plain = await _run(pool, work)
    except BaseException:
        pool.shutdown(wait=False)
        raise
    return AsyncClient(plain, pool)


async def _run(pool: ThreadPoolExecutor, work: Callable[[], R]) -> R:
    calls = Calls()
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, calls.during, work)
    except asyncio.CancelledError:
        calls.cancel()
        raise


# --- how a plain method becomes an asynchronous one -------------------------------------------------


def _plain(value: Any) -> Any:
    return value.sync if isinstance(value, _Async) else value


def _ready(method: Callable[..., R], this: "_Async[Any]", args: Any, options: Any) -> Callable[[], R]:
    options = {name: _plain(value) for name, value in options.items()}
    return functools.partial(method, this.sync, *map(_plain, args), **options)


def awaited(
    method: Callable[Concatenate[S, P], R], **defaults: Any
) -> Callable[Concatenate["_Async[Any]", P], Coroutine[Any, Any, R]]:
    """A plain method, to be awaited; ``defaults`` are options that are other than there."""

    @functools.wraps(method)
    async def call(this: "_Async[Any]", /, *args: P.args, **options: P.kwargs) -> R:
        return await this.client.run(_ready(method, this, args, {**defaults, **options}))

    return call


def made(
    method: Callable[Concatenate[S, P], R], cls: "Callable[[AsyncClient, R], W]", **defaults: Any
) -> Callable[Concatenate["_Async[Any]", P], Coroutine[Any, Any, W]]:
    """A plain method whose result has an asynchronous class."""

    @functools.wraps(method)
    async def call(this: "_Async[Any]", /, *args: P.args, **options: P.kwargs) -> W:
        return cls(this.client, await this.client.run(_ready(method, this, args, {**defaults, **options})))

    return call


def listed(
    method: Callable[Concatenate[S, P], list[R]], cls: "Callable[[AsyncClient, R], W]"
) -> Callable[Concatenate["_Async[Any]", P], Coroutine[Any, Any, list[W]]]:
    """A plain method whose results have an asynchronous class."""

    @functools.wraps(method)
    async def call(this: "_Async[Any]", /, *args: P.args, **options: P.kwargs) -> list[W]:
        return [cls(this.client, one) for one in await this.client.run(_ready(method, this, args, options))]

    return call


def entered(
    method: Callable[Concatenate[S, P], ContextManager[Any]],
) -> Callable[Concatenate[W, P], AsyncContextManager[W]]:
    """A plain method for ``with`` blocks, for ``async with`` blocks that give the object itself."""

    @functools.wraps(method)
    @contextlib.asynccontextmanager
    async def block(this: W, /, *args: P.args, **options: P.kwargs) -> AsyncIterator[W]:
        context = await this.client.run(_ready(method, this, args, options))
        await this.client.run(context.__enter__)
        try:
            yield this
        finally:
            await this.client.run(context.__exit__, None, None, None)

    return block


class _Async(Generic[S]):
    def __init__(self, client: "AsyncClient", sync: S):
        self.client = client
        self.sync: S = sync
        """The plain object. Its attributes can be read; its calls would block."""

    def __repr__(self) -> str:
        return f"<async {self.sync!r}>"


# --- the classes ------------------------------------------------------------------------------------


class AsyncPruneStream(_Async[PruneStream]):
    """A running job's partial results: ``async for event in stream``, then ``await stream.scores()``.
    Leaving its ``async with`` block, or :meth:`close`, cancels the job unless it has ended.
    """

    def __init__(self, client: "AsyncClient", sync: PruneStream):
        super().__init__(client, sync)
        self.job: Job = sync.job
        """The job; its state is that of the last message."""
        self._events = client.iterate(sync, stop=sync.close)

    def __aiter__(self) -> AsyncIterator[JobEvent]:
        return self._events

    async def scores(self) -> PruneScores:
        """The final scores. Raises :class:`ablate.AblateError` (``JOB_FAILED``) if the job failed."""
        async for _ in self:
            pass
        return await self.client.run(lambda: self.sync.scores)

    @property
    def top_edges(self) -> tuple[EdgeScore, ...]:
        """The running top edges by |score|."""
        return self.sync._top

    async def close(self) -> None:
        """Cancels the job unless it has ended."""
        await self.client.run(self.sync.close)
        await self._events.aclose()

    async def __aenter__(self) -> "AsyncPruneStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncJob(_Async[Job]):
    """A job on the daemon, as :class:`ablate.Job`."""

    @property
    def id(self) -> str:
        """The handle."""
        return self.sync.id

    @property
    def state(self) -> str:
        """The state when it was last asked for; :meth:`refresh` asks again."""
        return self.sync.state

    def watch(self, after: int = 0, with_scores: bool = False) -> AsyncIterator[JobEvent]:
        """The job's events after number ``after``, as they happen, to its end; as :meth:`Job.watch`."""
        return self.client.iterate(functools.partial(self.sync.watch, after, with_scores=with_scores))

    refresh = awaited(Job.refresh)
    cancel = awaited(Job.cancel)
    scores = awaited(Job.scores)
    training_curve = awaited(Job.training_curve)
    wait = awaited(Job.wait, progress=False)
    scores_when_done = awaited(Job.scores_when_done, progress=False)


class AsyncGraph(_Async[Graph]):
    """A graph, from :meth:`AsyncModel.graph`, as :class:`ablate.Graph`. ``train_mask_mode`` is not here:
    autograd's passes block by nature.
    """

    def __init__(self, client: "AsyncClient", sync: Graph):
        super().__init__(client, sync)
        self.id: str = sync.id
        """The handle."""
        self.edge_count: int = sync.edge_count
        """Number of edges, all positions counted."""

    async def nodes(self) -> list[Node]:
        """Sources in index order, then destinations."""
        return await self.client.run(lambda: self.sync.nodes)

    async def edges(self) -> list[Edge]:
        """All edges in canonical order."""
        return await self.client.run(lambda: self.sync.edges)

    async def wrappers(self) -> list[Wrapper]:
        """The wrapped modules."""
        return await self.client.run(lambda: self.sync.wrappers)

    async def src_wrappers(self) -> list[Wrapper]:
        """The wrapped modules that edges begin in."""
        return await self.client.run(lambda: self.sync.src_wrappers)

    async def dest_wrappers(self) -> list[Wrapper]:
        """The wrapped modules that edges end in."""
        return await self.client.run(lambda: self.sync.dest_wrappers)

    async def mask_fn(self) -> tuple[MaskFn | None, float]:
        """What the mask goes through, and the chance that a value is dropped."""
        return await self.client.run(lambda: self.sync.mask_fn)

    async def mask_batch_size(self) -> int | None:
        """Rows of the mask; None: one for all prompts."""
        return await self.client.run(lambda: self.sync.mask_batch_size)

    def iter_edges(self, source: str | None = None, destination: str | None = None) -> AsyncIterator[Edge]:
        """Streams edges from a source, into a destination, as :meth:`Graph.iter_edges`."""
        return self.client.iterate(functools.partial(self.sync.iter_edges, source, destination))

    async def run_with_cache(self, input: Prompt, names_filter: Any = None, **options: Any) -> tuple[Array | None, Any]:
        """Logits and activations, all of which come at once; options, shapes and errors as
        :meth:`Graph.run_with_cache`."""
        return await self.client.run(_eager, self.sync, input, names_filter, options)

    forward = awaited(Graph.forward)
    run_with_hooks = awaited(Graph.run_with_hooks)
    set_patch_mask = awaited(Graph.set_patch_mask)
    get_patch_mask = awaited(Graph.get_patch_mask)
    reset_patch_mask = awaited(Graph.reset_patch_mask)
    set_circuit = awaited(Graph.set_circuit)
    set_mask_fn = awaited(Graph.set_mask_fn)
    set_mask_batch_size = awaited(Graph.set_mask_batch_size)
    mask_backward = awaited(Graph.mask_backward)
    patched = entered(Graph.patched)
    mask_fn_mode = entered(Graph.mask_fn_mode)
    add_hook = awaited(Graph.add_hook)
    hooks = awaited(Graph.hooks)
    reset_hooks = awaited(Graph.reset_hooks)
    submit = made(Graph.submit, AsyncJob)
    stream_prune_scores = made(Graph.stream_prune_scores, AsyncPruneStream)
    prune_scores = awaited(Graph.prune_scores, progress=False)
    upload_scores = awaited(Graph.upload_scores)
    load_scores = awaited(Graph.load_scores)
    save_scores = awaited(Graph.save_scores)
    eap_graph = awaited(Graph.eap_graph)
    read_eap_graph = awaited(Graph.read_eap_graph)
    new_prune_scores = awaited(Graph.new_prune_scores)
    circuit_prune_scores = awaited(Graph.circuit_prune_scores)
    current_patch_masks_as_prune_scores = awaited(Graph.current_patch_masks_as_prune_scores)
    create_ablation = awaited(Graph.create_ablation, progress=False)
    run_circuits = awaited(Graph.run_circuits)
    evaluate = awaited(Graph.evaluate, progress=False)
    delete = awaited(Graph.delete)


class AsyncModel(_Async[Model]):
    """A resident model, from :meth:`AsyncClient.model` or :meth:`AsyncClient.load_model`, as
    :class:`ablate.Model`. Weights: ``await client.run(lambda: model.sync.blocks[3].attn.W_Q)``.
    """

    def __init__(self, client: "AsyncClient", sync: Model):
        super().__init__(client, sync)
        self.id: str = sync.id
        """The handle."""
        self.cfg: ModelConfig = sync.cfg
        """Its shape."""

    async def run_with_cache(self, input: Prompt, names_filter: Any = None, **options: Any) -> tuple[Array | None, Any]:
        """Logits and activations, all of which come at once; options, shapes and errors as
        :meth:`Model.run_with_cache`."""
        return await self.client.run(_eager, self.sync, input, names_filter, options)

    async def hook_points(self) -> list[HookPoint]:
        """The hook points that can fire in this model, in the order in which they fire."""
        return await self.client.run(self.sync.hook_points)

    forward = awaited(Model.forward)
    run_with_hooks = awaited(Model.run_with_hooks)
    activations = awaited(Model.activations)
    to_tokens = awaited(Model.to_tokens)
    to_token_lists = awaited(Model.to_token_lists)
    to_str_tokens = awaited(Model.to_str_tokens)
    to_string = awaited(Model.to_string)
    to_single_token = awaited(Model.to_single_token)
    to_single_str_token = awaited(Model.to_single_str_token)
    input_to_embed = awaited(Model.input_to_embed)
    state_dict = awaited(Model.state_dict)
    kv_cache = awaited(Model.kv_cache)
    kv_caches = awaited(Model.kv_caches)
    create_ablation = awaited(Model.create_ablation, progress=False)
    src_ablations = awaited(Model.src_ablations)
    graph = made(Model.graph, AsyncGraph)
    graphs = listed(Model.graphs, AsyncGraph)
    unload = awaited(Model.unload)


class AsyncClient(_Async[Client]):
    """A connection to a daemon, from :func:`connect`; of the event loop that made it."""

    def __init__(self, sync: Client, pool: ThreadPoolExecutor):
        super().__init__(self, sync)
        self._pool = pool

    async def run(self, work: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
        """Anything of the plain client, without blocking the event loop:
        ``await client.run(dataset.delete)``, ``await client.run(lambda: model.sync.embed.W_E)``.
        """
        return await _run(self._pool, functools.partial(work, *args, **options))

    async def iterate(
        self, items: Iterable[R] | Callable[[], Iterable[R]], stop: Callable[[], None] | None = None
    ) -> AsyncGenerator[R, None]:
        """A plain iterator (or what makes one) as an asynchronous one. Leaving it early cancels the
        calls that were made for it, and calls ``stop``.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Any]()
        end = object()

        def read() -> None:
            for item in items() if callable(items) else items:
                loop.call_soon_threadsafe(queue.put_nowait, item)

        reading = asyncio.ensure_future(self.run(read))
        reading.add_done_callback(lambda _: queue.put_nowait(end))
        try:
            while (item := await queue.get()) is not end:
                yield item
            await reading
        finally:
            if not reading.done():
                if stop is not None:
                    await self.run(stop)
                reading.cancel()

    async def close(self) -> None:
        """Ends the connection and its calls. Graphs and jobs live on in the daemon."""
        await self.run(self.sync.close)
        self._pool.shutdown(wait=False)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    server_info = awaited(Client.server_info)
    model_files = awaited(Client.model_files)
    models = listed(Client.models, AsyncModel)
    model = made(Client.model, AsyncModel)
    load_model = made(Client.load_model, AsyncModel, progress=False)
    load = load_model
    upload_model = made(Client.upload_model, AsyncModel, progress=False)
    upload_dataset = awaited(Client.upload_dataset)
    datasets = awaited(Client.datasets)
    jobs = listed(Client.jobs, AsyncJob)
    job = made(Client.job, AsyncJob)
    cancel = made(Client.cancel, AsyncJob)
    kv_caches = awaited(Client.kv_caches)
    ablations = awaited(Client.ablations)
    run_circuits = awaited(Client.run_circuits)
    evaluate = awaited(Client.evaluate, progress=False)
    completeness = awaited(Client.completeness)
    roc = awaited(Client.roc)
    compare = awaited(Client.compare)


def _eager(
    target: Model | Graph, input: Prompt, names_filter: Any, options: dict[str, Any]
) -> tuple[Array | None, Any]:
    """A pass whose activations are here when it returns: a lazy cache would block where it is read."""
    logits, cache = target.run_with_cache(input, names_filter, **options)
    if not options.get("keep_on_server"):
        cache._fetch(list(cache))
    return logits, cache
