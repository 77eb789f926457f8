# SPDX-License-Identifier: Apache-2.0
"""Jobs, and the scores that they stream while these form."""

from __future__ import annotations

import contextlib
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generator, Iterator, Sequence, Union

import numpy as np
from tqdm.auto import tqdm

from ._acdc import AcdcDecision, AcdcTau, found
from ._arrays import Array, Backend, collect_chunks, to_numpy
from ._rpc import Stream
from ._training import TrainingPoint
from .errors import AblateError, NotFoundError, UnavailableError
from .v1 import common_pb2, prune_pb2

if TYPE_CHECKING:
    from ._client import Client


@dataclass(frozen=True)
class EdgeScore:
    """An edge and its score so far."""

    edge: str
    """``"A9.9->A11.10.Q"``"""
    seq_idx: int | None
    """Token position in a token-specific graph, else None."""
    score: float

    @classmethod
    def _from_proto(cls, proto: common_pb2.EdgeValue) -> "EdgeScore":
        return cls(proto.edge, proto.seq_number - 1 if proto.seq_number else None, proto.value)


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job; with ``top_edges``, its result so far."""

    sequence: int
    """1, 2, 3, ... without gaps."""
    state: str
    """``"queued"``, ``"running"``, ``"succeeded"``, ``"failed"`` or ``"cancelled"``."""
    done_units: int
    total_units: int
    eta_ms: float
    """Time to the end; -1 where it cannot be told."""
    elapsed_ms: float
    top_edges: tuple[EdgeScore, ...]
    """The running top edges by |score|, descending."""
    error: str
    training: tuple[TrainingPoint, ...] = ()
    """Trainings: the optimizer steps since the event before, at most the newest 1000."""
    acdc: tuple[AcdcTau, ...] = ()
    """ACDC: its taus as far as they are decided, those not begun left out."""
    acdc_decisions: tuple[AcdcDecision, ...] = ()
    """ACDC: the edges decided since the event before, in order, at most the newest 1000."""
    scores: dict[str, Array] | None = field(default=None, compare=False, repr=False)
    """With ``with_scores``: all scores as of this event, as :class:`PruneScores` has them, where it has
    new ones: the learned masks of a training after each epoch, the sums so far of others after a batch."""

    @classmethod
    def _from_proto(cls, proto: prune_pb2.JobEvent, scores: dict[str, Array] | None = None) -> "JobEvent":
        return cls(
            scores=scores,
            sequence=proto.sequence,
            state=state_name(proto.state),
            done_units=proto.done_units,
            total_units=proto.total_units,
            eta_ms=proto.eta_ms,
            elapsed_ms=proto.elapsed_ms,
            top_edges=tuple(EdgeScore._from_proto(edge) for edge in proto.top_edges),
            error=proto.error,
            training=tuple(TrainingPoint._from_proto(point) for point in proto.training),
            acdc=tuple(AcdcTau._from_proto(tau) for tau in proto.acdc),
            acdc_decisions=tuple(AcdcDecision._from_proto(one) for one in proto.acdc_decisions),
        )


def state_name(state: int) -> str:
    """``JOB_STATE_RUNNING`` as ``"running"``."""
    return prune_pb2.JobState.Name(state).removeprefix("JOB_STATE_").lower()


ENDED = frozenset(("succeeded", "failed", "cancelled"))

GRACE_MS = 15_000
"""How long the daemon lets a streamed job go on for a client whose connection is lost."""
CANCEL_TIMEOUT = 5.0
"""Seconds that leaving a stream waits for the daemon's word."""


def resume_pause(failures: int) -> float:
    """Seconds to wait before a lost connection is tried again."""
    return min(0.1 * 2.0**failures, 5.0)


def job_gone(job: "Job") -> NotFoundError:
    """What a client says that came back to a daemon without its job."""
    return NotFoundError(
        f"the daemon at {job.client.host} was started anew while job {job.id} ran, so the job and its "
        "scores are gone; load the model and start the job again",
        "JOB_UNKNOWN",
    )


def event_of(proto: prune_pb2.JobEvent, stream: Any, backend: Backend) -> JobEvent:
    """An event, with the scores that follow it in its stream."""
    if proto.score_tensor_count == 0:
        return JobEvent._from_proto(proto)
    tensors = collect_chunks((message.scores for message in stream), backend)
    return JobEvent._from_proto(proto, dict(itertools.islice(tensors, proto.score_tensor_count)))


class PruneScores(dict[str, Array]):
    """Scores by destination module, named and shaped as AutoCircuit's PruneScores:
    float32 ``[heads, sources]``, ``[sources]`` where a module has no heads, with a leading ``[seq]``
    in a token-specific graph.
    """

    def __init__(self, arrays: dict[str, Array], job: "Job", top_edges: Sequence[EdgeScore] = ()):
        super().__init__(arrays)
        self.job = job
        """The job that made them."""
        self.top_edges = tuple(top_edges)
        """The top edges of the job's last event, by |score|."""

    @classmethod
    def _from_chunks(cls, chunks: Any, job: "Job", top: Sequence[EdgeScore] = ()) -> "PruneScores":
        return cls(dict(collect_chunks(chunks, job.client.arrays)), job, top)

    def flat(self) -> np.ndarray:
        """All scores in one numpy array, module after module: float32 ``[edges]``."""
        if not self:
            return np.zeros(0, np.float32)
        return np.concatenate([to_numpy(array).reshape(-1) for array in self.values()])

    def __repr__(self) -> str:
        count = sum(to_numpy(array).size for array in self.values())
        return f"<ablate.PruneScores of {count} values in {len(self)} modules, job {self.job.id}>"

    def _repr_html_(self) -> str:
        from ._html import prune_scores

        return prune_scores(self)


class Job:
    """A job on the daemon. It outlives the call and the notebook that made it.

    Calls raise :class:`ablate.NotFoundError` (``JOB_UNKNOWN``) once the daemon has forgotten it.
    """

    def __init__(self, client: "Client", proto: prune_pb2.Job):
        self.client = client
        self._proto = proto

    @property
    def id(self) -> str:
        """The handle."""
        return self._proto.job_id

    @property
    def state(self) -> str:
        """The state when it was last asked for; :meth:`refresh` asks again."""
        return state_name(self._proto.state)

    @property
    def error(self) -> str:
        """Why it failed; empty otherwise."""
        return self._proto.error

    @property
    def done_units(self) -> int:
        """Units of work done."""
        return self._proto.done_units

    @property
    def total_units(self) -> int:
        """Units of work in all."""
        return self._proto.total_units

    @property
    def elapsed_ms(self) -> float:
        """Time it has run, queueing excluded."""
        return self._proto.elapsed_ms

    @property
    def owner(self) -> str:
        """Who submitted it: "ada@lab", or where the call came from."""
        return self._proto.owner

    @property
    def last_sequence(self) -> int:
        """Number of its newest event."""
        return self._proto.last_sequence

    @property
    def provenance(self) -> common_pb2.Provenance:
        """How its scores came about."""
        return self._proto.provenance

    def refresh(self) -> "Job":
        """Asks the daemon how the job stands; returns itself."""
        self._proto = self.client._call("GetJob", prune_pb2.GetJobRequest(job_id=self.id)).job
        return self

    def cancel(self) -> "Job":
        """Asks the job to stop; it does within one batch and keeps the scores that it has."""
        self._proto = self.client._call("CancelJob", prune_pb2.CancelJobRequest(job_id=self.id)).job
        return self

    def watch(self, after: int = 0, retries: int = 5, with_scores: bool = False) -> Iterator[JobEvent]:
        """The job's events after number ``after``, as they happen, to its end; ``with_scores``: those from
        now on with all scores as of them (:attr:`JobEvent.scores`).

        A lost connection is resumed after the last event that arrived: nothing is missed and
        nothing comes twice. After ``retries`` failures in a row :class:`ablate.UnavailableError`; where
        the daemon was started anew meanwhile, :class:`ablate.NotFoundError` (``JOB_UNKNOWN``).
        """
        failures = 0
        while True:
            stream = self.client._call(
                "WatchJob",
                prune_pb2.WatchJobRequest(job_id=self.id, after_sequence=after, with_scores=with_scores),
            )
            try:
                for message in stream:
                    event = event_of(message.event, stream, self.client.arrays)
                    after, failures = event.sequence, 0
                    yield event
                return
            except UnavailableError:
                failures += 1
                if failures > retries:
                    raise
                time.sleep(resume_pause(failures))
            except NotFoundError:
                if failures:
                    raise job_gone(self) from None
                raise
            finally:
                stream.cancel()

    @property
    def acdc(self) -> tuple[AcdcTau, ...]:
        """An ACDC's taus, as far as they were decided when it was last asked for."""
        return tuple(AcdcTau._from_proto(tau) for tau in self._proto.acdc)

    def training_curve(self) -> list[TrainingPoint]:
        """The optimizer steps of a training so far, from the job's events; a running one is not
        waited for.
        """
        last = self.refresh().last_sequence
        points: list[TrainingPoint] = []
        if last == 0:
            return points
        for event in self.watch():
            points.extend(event.training)
            if event.sequence >= last:
                break
        return points

    def wait(self, progress: bool = True) -> "Job":
        """Watches the job to its end; Ctrl-C cancels it. Raises :class:`AblateError` if it failed."""
        self.scores_when_done(progress)
        return self

    def scores(self) -> PruneScores:
        """The job's scores, final or so far."""
        stream = self.client._call(
            "GetPruneScores", prune_pb2.GetPruneScoresRequest(job_id=self.id)
        )
        chunks = (message.chunk for message in stream)
        return PruneScores(dict(collect_chunks(chunks, self.client.arrays)), self)

    def scores_when_done(self, progress: bool = True) -> PruneScores:
        """Watches the job to its end, with a bar, and returns its scores; Ctrl-C cancels it."""
        top = follow(self, self.watch(), progress)
        self.refresh()
        if self.state == "failed":
            raise AblateError(self.error, "JOB_FAILED")
        scores = self.scores()
        scores.top_edges = top
        return scores

    def __repr__(self) -> str:
        return f"<ablate.Job {self.id}: {self.state}, {self.done_units} of {self.total_units}>"

    def _repr_html_(self) -> str:
        from ._html import job

        return job(self)


def follow(
    job: Job, events: Iterator[JobEvent], progress: bool, description: str = "scoring edges"
) -> tuple[EdgeScore, ...]:
    """Draws a bar from a job's events and returns the last top edges. An interrupt cancels the job
    on the daemon, then goes on as KeyboardInterrupt whose text says where the scores so far are.
    """
    top: tuple[EdgeScore, ...] = ()
    bar = tqdm(desc=description, unit="batch", disable=not progress)
    try:
        for event in events:
            top = event.top_edges or top
            bar.total = event.total_units or None
            bar.update(event.done_units - bar.n)
            if event.acdc:
                bar.set_postfix_str(found(event.acdc[-1], event.acdc_decisions), refresh=False)
            elif top:
                # A narrow terminal keeps its bar; a notebook has room.
                width = getattr(bar, "ncols", None)
                shown = top[: 1 if isinstance(width, int) and width < 140 else 3]
                bar.set_postfix_str(
                    ", ".join(f"{edge.edge} {edge.score:+.3g}" for edge in shown), refresh=False
                )
            bar.refresh()
    except KeyboardInterrupt:
        job.cancel()
        raise KeyboardInterrupt(
            f"job {job.id} was cancelled; its scores so far: client.job({job.id!r}).scores()"
        ) from None
    finally:
        bar.close()
    return top


class PruneStream:
    """A running job's partial results: iterate over it for :class:`JobEvent`, then read ``scores``.

    Leaving the loop early, ``close()`` or the end of a ``with`` block cancels the job, which keeps the
    scores that it has: ``stream.job.scores()``. A lost connection is resumed as by :meth:`Job.watch`;
    the daemon lets the job go on for 15 seconds without a connection, then cancels it.
    """

    def __init__(self, client: "Client", stream: Stream, with_scores: bool = False):
        self.client = client
        self._stream = stream
        self._with_scores = with_scores
        self._scores: PruneScores | None = None
        self._top: tuple[EdgeScore, ...] = ()
        self._done = False
        self._sequence = 0
        try:
            first = next(stream)
        except BaseException:
            stream.cancel()
            raise
        self.job = Job(client, first.created)
        """The job; its events also answer :meth:`Job.watch`."""
        self._events = self._read()

    def _read(self) -> Iterator[JobEvent]:
        try:
            try:
                for message in self._stream:
                    if message.HasField("event"):
                        yield self._seen(event_of(message.event, self._stream, self.client.arrays))
                    else:
                        self._scores = PruneScores._from_chunks(self._chunks(message), self.job, self._top)
            except UnavailableError:
                with contextlib.closing(self._resume()) as events:
                    yield from events
            self._done = True
        finally:
            self.close()

    def _resume(self) -> Generator[JobEvent, None, None]:
        try:
            while True:
                for event in self.job.watch(self._sequence, with_scores=self._with_scores):
                    yield self._seen(event)
                with contextlib.suppress(UnavailableError):  # lost once more: watch() tries again
                    self.job.refresh()
                    return
        except NotFoundError:
            self._done = True  # nothing is left to cancel
            raise job_gone(self.job) from None

    def _seen(self, event: JobEvent) -> JobEvent:
        self._sequence = event.sequence
        self._top = event.top_edges or self._top
        return event

    def _chunks(self, message: Any) -> Iterator[common_pb2.TensorChunk]:
        while message.HasField("scores"):
            yield message.scores
            message = next(self._stream)
        self.job._proto = message.ended

    def __iter__(self) -> Iterator[JobEvent]:
        return self._events

    def __next__(self) -> JobEvent:
        return next(self._events)

    @property
    def scores(self) -> PruneScores:
        """The final scores, or those of the cancelled job; reads the stream to its end.

        Raises :class:`AblateError` (``JOB_FAILED``) if the job failed.
        """
        for _ in self._events:
            pass
        if self._scores is None:
            self.job.refresh()
            self._scores = self.job.scores()
            self._scores.top_edges = self._top
        if self.job.state == "failed":
            raise AblateError(self.job.error, "JOB_FAILED")
        return self._scores

    def close(self) -> None:
        """Cancels the job unless it has ended; raises nothing."""
        if not self._done:
            self._stream.cancel()
            # Without a connection, the daemon does it after the grace; ValueError: a closed channel.
            with contextlib.suppress(AblateError, ValueError):
                request = prune_pb2.CancelJobRequest(job_id=self.job.id)
                self.client._channel.call("CancelJob", request, CANCEL_TIMEOUT)
                self._done = True

    def __enter__(self) -> "PruneStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


Scores = Union[PruneScores, Job, str]
"""Scores by the job that made them."""


def job_id_of(scores: Scores) -> str:
    """The job behind scores."""
    if isinstance(scores, PruneScores):
        return scores.job.id
    return scores.id if isinstance(scores, Job) else scores
