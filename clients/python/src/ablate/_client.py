# SPDX-License-Identifier: Apache-2.0
"""The client: a connection to a daemon, and what is resident there."""

from __future__ import annotations

import atexit
import os
from typing import Any, Iterable, Iterator, Literal, Mapping, Sequence, Union

from tqdm.auto import tqdm

from ._ablation import PatchType, ResidentAblation
from ._algorithms import Ablation
from ._arrays import Array, Backend, collect_chunks, decode, resolve_backend
from ._cache import Lazy
from ._caches import KvCache
from ._dataset import Dataset, DatasetLike, dataset_bytes
from ._enums import enum_value
from ._hooks import FwdHooks
from ._interop import PathLike
from ._jobs import Job, PruneScores, Scores, job_id_of
from ._measure import Comparison, Completeness, Evaluation, Roc, roc_request
from ._model import Model
from ._rpc import Channel, Tls
from ._sweep import SizesLike, make_sweep, metric_values
from ._topology import EdgeKey
from ._upload import UploadSource, upload_messages
from ._version import PROTOCOL, VERSION
from .errors import DeadlineExceededError, NotFoundError, UnavailableError, UnimplementedError, VersionSkewError
from .v1 import (
    admin_pb2,
    cache_pb2,
    common_pb2,
    dataset_pb2,
    evaluate_pb2,
    model_pb2,
    prune_pb2,
    run_pb2,
)

DEFAULT_HOST = "localhost:50051"
Mode = Union[Literal["hf", "tl"], Mapping[str, bool]]
"""Weight processing: ``"hf"`` raw, ``"tl"`` TransformerLens's and AutoCircuit's default, or each
transform by itself: ``{"fold_ln": True}``."""


def connect(
    host: str | None = None,
    *,
    arrays: Backend = "auto",
    timeout: float | None = 10.0,
    tls_ca: PathLike | None = None,
    client_cert: PathLike | None = None,
    client_key: PathLike | None = None,
) -> "Client":
    """Connects to a daemon at ``"host:port"``, or ``"https://host:port"`` if it speaks TLS; None:
    ``$ABLATE_HOST``, else ``localhost:50051``.

    ``arrays``: ``"torch"``, ``"numpy"``, or ``"auto"``: torch where it is importable. ``tls_ca``: a PEM file
    with who signed the daemon's certificate (None: ``$ABLATE_TLS_CA``, else gRPC's authorities).
    ``client_cert``, ``client_key``: PEM files for a daemon that asks for a certificate (None:
    ``$ABLATE_CLIENT_CERT``, ``$ABLATE_CLIENT_KEY``, else none).

    Raises :class:`ablate.UnavailableError` if no daemon answers within ``timeout`` seconds,
    :class:`ablate.VersionSkewError` if it speaks another protocol, and :class:`OSError` or
    :class:`ValueError` for files that are not what they should be.
    """
    files = (tls_ca, "ABLATE_TLS_CA"), (client_cert, "ABLATE_CLIENT_CERT"), (client_key, "ABLATE_CLIENT_KEY")
    tls = Tls(*(path or os.environ.get(name) or None for path, name in files))
    return Client(host or os.environ.get("ABLATE_HOST") or DEFAULT_HOST, arrays=arrays, timeout=timeout, tls=tls)


def _advice(host: str, words: str) -> str:
    """What to do about a connection that gRPC could not make."""
    if "andshake failed" in words:
        return "tls_ca or ABLATE_TLS_CA names who signed its certificate, which must be for that host"
    if "Socket closed" in words and host.startswith("https://"):
        return "if it asks for a certificate, give client_cert and client_key"
    if "Socket closed" in words:
        return f"if it speaks TLS, its address is https://{host}"
    if "http1.x" in words:
        return "that is its HTTP port: give the one for gRPC, 50051 where `ablated` was not told another"
    return "start one with `ablated`, or set ABLATE_HOST or pass host:port"


class Client:
    """A connection to a daemon, from :func:`connect`. Any thread may use it.

    Every call raises :class:`ablate.UnavailableError` when the daemon is gone or drains, and
    :class:`ablate.ResourceExhaustedError` (``TOO_MANY_CALLS``) when it has too many; what a call raises
    besides is said there. :class:`ablate.NotFoundError` is for handles of what is no longer resident.
    """

    def __init__(
        self, host: str, *, arrays: Backend = "auto", timeout: float | None = 10.0, tls: Tls | None = None
    ):
        self.host = host
        """``"host:port"``, or ``"https://host:port"``"""
        resolve_backend(arrays)  # a wrong value is best told at once
        self.arrays: Backend = arrays
        self._channel = Channel(host, tls or Tls())
        self._lazy = Lazy(self._channel)
        try:
            info = self._channel.call("GetServerInfo", admin_pb2.GetServerInfoRequest(), timeout)
        except (UnavailableError, DeadlineExceededError) as error:
            self._channel.close()
            words = error.metadata.get("grpc", error.message)
            raise UnavailableError(
                f"no Ablate daemon answers at {host} ({words}); {_advice(host, words)}", error.reason
            ) from None
        except UnimplementedError:
            self._channel.close()
            raise VersionSkewError(
                f"what listens at {host} is a gRPC server but not an Ablate daemon"
            ) from None
        self.server_version: str = info.version
        """The daemon's version."""
        self.protocol: str = info.protocol
        """The protocol that both speak: ``"ablate.v1"``."""
        problem = skew(VERSION, PROTOCOL, info.version, info.protocol)
        if problem:
            self._channel.close()
            raise VersionSkewError(problem, "VERSION_SKEW")
        atexit.register(self._lazy.end)

    def __repr__(self) -> str:
        return f"<ablate.Client of {self.host}, daemon {self.server_version}>"

    def _repr_html_(self) -> str:
        from ._html import client

        return client(self)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, and what lazy caches keep. Graphs and jobs live on in the daemon."""
        atexit.unregister(self._lazy.end)
        self._lazy.end()
        self._channel.close()

    def server_info(self, timeout: float | None = None) -> admin_pb2.GetServerInfoResponse:
        """The daemon: version, devices, resident bytes by kind, limits. Raises
        :class:`ablate.DeadlineExceededError` after ``timeout`` seconds, if they are given.
        """
        request = admin_pb2.GetServerInfoRequest()
        info: admin_pb2.GetServerInfoResponse = self._channel.call("GetServerInfo", request, timeout)
        return info

    # --- models -------------------------------------------------------------------------------

    def models(self) -> list[Model]:
        """The resident models, in order of loading."""
        pages = self._pages("ListModels", model_pb2.ListModelsRequest(), "models")
        return [Model(self, proto) for proto in pages]

    def model_files(self) -> list[model_pb2.ModelFile]:
        """The models that the daemon's roots and its Hugging Face cache hold, loaded or not."""
        return list(self._pages("ListModelFiles", model_pb2.ListModelFilesRequest(), "models"))

    def model(self, /, name: str, **load_options: Any) -> Model:
        """A model by handle or name: the resident one, else loaded with ``load_options``, which are
        those of :meth:`load_model`. With options given, exactly that variant.
        """
        if not load_options:
            try:
                request = model_pb2.GetModelRequest(model_id=name)
                return Model(self, self._call("GetModel", request).model)
            except NotFoundError:
                pass
        return self.load_model(name, **load_options)

    def load_model(
        self,
        name: str,
        mode: Mode = "hf",
        *,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        device: str = "",
        progress: bool = True,
    ) -> Model:
        """Makes a model resident, with a bar; one that is resident already is returned at once.

        ``name``: a folder below one of the daemon's model roots, a Hugging Face id in its hub cache,
        or a TransformerLens alias. The daemon never downloads. Ctrl-C cancels the load.

        Raises :class:`ablate.NotFoundError` (``MODEL_UNKNOWN``, ``MODEL_FILE_MISSING``),
        :class:`ablate.InvalidArgumentError` (``MODEL_MALFORMED``), :class:`ablate.UnimplementedError`
        (``FAMILY_UNSUPPORTED``), :class:`ablate.PermissionDeniedError` (``PATH_OUTSIDE_ROOTS``).
        """
        request = load_request(name, mode, dtype, device)
        with self._call("LoadModel", request) as stream, tqdm(
            desc=f"loading {name}", unit="B", unit_scale=True, unit_divisor=1024, disable=not progress
        ) as bar:
            for message in stream:
                bar.total = message.total_bytes or None
                bar.set_postfix_str(message.stage, refresh=False)
                bar.update(message.loaded_bytes - bar.n)
                if message.HasField("model"):
                    return Model(self, message.model)
        raise UnavailableError(f"the daemon ended the load of {name!r} without a model")

    def upload_model(
        self,
        source: UploadSource,
        name: str | None = None,
        *,
        tokenizer: Any = None,
        mode: Mode = "hf",
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        device: str = "",
        progress: bool = True,
    ) -> Model:
        """Makes a model resident from here: no code travels, only configuration and weights.

        ``source``: a Hugging Face folder with safetensors, or ``(config, tensors)``: the dict or text of
        config.json, and a dict of arrays by Hugging Face name (a ``state_dict``) or safetensors bytes.
        ``tokenizer``: the dict, text or path of tokenizer.json; a folder's own is found by itself.

        Raises as :meth:`load_model` does.
        """
        label, size, chunks = upload_messages(source, tokenizer)
        options = model_pb2.UploadModelOptions(
            name=name or label,
            processing=processing(mode),
            dtype=dtype_value(dtype),
            device=device,
        )
        bar = tqdm(
            desc=f"uploading {options.name}", total=size, unit="B", unit_scale=True,
            unit_divisor=1024, disable=not progress,
        )  # fmt: skip

        def messages() -> Iterator[model_pb2.UploadModelRequest]:
            yield model_pb2.UploadModelRequest(options=options)
            for file_name, data in chunks:
                chunk = model_pb2.FileChunk(file_name=file_name, data=data)
                yield model_pb2.UploadModelRequest(chunk=chunk)
                bar.update(len(data))

        with bar:
            return Model(self, self._call("UploadModel", messages()).model)

    # --- datasets -----------------------------------------------------------------------------

    def upload_dataset(self, source: DatasetLike, name: str | None = None) -> Dataset:
        """Keeps a dataset: a path, dict, JSON text or bytes in AutoCircuit's format. The same bytes
        twice give the same dataset.

        Raises :class:`ablate.InvalidArgumentError` (``DATASET_MALFORMED``), which names the key or the
        prompt, and :class:`ablate.ResourceExhaustedError` (``DATASET_TOO_BIG``).
        """
        if isinstance(source, Dataset):
            return source
        label, data = dataset_bytes(source)
        request = dataset_pb2.UploadDatasetRequest(name=name or label, json=data)
        return Dataset(self, self._call("UploadDataset", request).dataset)

    def datasets(self) -> list[Dataset]:
        """The datasets that the daemon keeps, in order of upload."""
        pages = self._pages("ListDatasets", dataset_pb2.ListDatasetsRequest(), "datasets")
        return [Dataset(self, proto) for proto in pages]

    # --- jobs ---------------------------------------------------------------------------------

    def jobs(self, state: str | None = None) -> list[Job]:
        """Jobs, newest first; ``state``: only those ``"running"``, ``"queued"``, ..."""
        request = prune_pb2.ListJobsRequest(
            state=enum_value(prune_pb2.JobState, "JOB_STATE_", state)
        )
        return [Job(self, proto) for proto in self._pages("ListJobs", request, "jobs")]

    def job(self, job_id: str) -> Job:
        """A job by its handle. Raises :class:`ablate.NotFoundError` (``JOB_UNKNOWN``)."""
        return Job(self, self._call("GetJob", prune_pb2.GetJobRequest(job_id=job_id)).job)

    def cancel(self, job: Job | str) -> Job:
        """Asks a job to stop; it does within one batch and keeps the scores that it has."""
        return (job if isinstance(job, Job) else self.job(job)).cancel()

    # --- caches -------------------------------------------------------------------------------

    def kv_caches(self, model: Model | str | None = None) -> list[KvCache]:
        """The KV caches that are resident, of one model or of all, in order of making."""
        model_id = model.id if isinstance(model, Model) else model
        request = cache_pb2.ListKvCachesRequest(model_id=model_id or "")
        return [KvCache(self, proto) for proto in self._pages("ListKvCaches", request, "kv_caches")]

    def ablations(self, model: Model | None = None) -> list[ResidentAblation]:
        """The resident ablations, of one model or of all."""
        request = cache_pb2.ListAblationsRequest(model_id=model.id if model is not None else "")
        return [
            ResidentAblation(self, proto) for proto in self._pages("ListAblations", request, "ablations")
        ]

    # --- circuits -----------------------------------------------------------------------------

    def run_circuits(
        self,
        scores: Scores,
        edge_counts: SizesLike = None,
        *,
        dataset: DatasetLike | None = None,
        patch_type: str | PatchType = "tree_patch",
        ablation: Ablation = "resample",
        reverse_clean_corrupt: bool = False,
        signed_scores: bool = False,
        batch_size: int | None = None,
        prompt_count: int | None = None,
        tail_divergence: bool = False,
        true_edge_count: int | None = None,
        zero_edges: bool | None = None,
        all_edges: bool | None = None,
        fwd_hooks: FwdHooks = None,
    ) -> dict[int, Array]:
        """Logits of circuits of several sizes: edge count -> float32 ``[prompts, d_vocab]`` at the
        last position, in dataset order, as AutoCircuit's ``run_circuits``.

        ``scores``: a finished or stopped job, or its scores. ``edge_counts`` None: 0, 1..9, 10, 20, ...,
        all; a list of ints is taken as it is; with floats in it (shares of all edges), a rule
        (:class:`EdgeCounts`) or one of the last three options, as AutoCircuit's ``edge_counts_util``.
        Ties of |score| make a circuit larger; the key is its actual size. ``tail_divergence``: the
        prefix that all prompts of the dataset share is run once, and circuits cover the tails behind it.
        ``fwd_hooks``: interventions of this sweep alone, behind the hooks of the job's graph.
        """
        sweep = make_sweep(
            scores,
            dataset_id=self.upload_dataset(dataset).id if dataset is not None else "",
            edge_counts=edge_counts,
            patch_type=patch_type,
            ablation=ablation,
            reverse_clean_corrupt=reverse_clean_corrupt,
            signed_scores=signed_scores,
            batch_size=batch_size,
            prompt_count=prompt_count,
            tail_divergence=tail_divergence,
            true_edge_count=true_edge_count,
            zero_edges=zero_edges,
            all_edges=all_edges,
            fwd_hooks=fwd_hooks,
        )
        stream = self._call("RunCircuits", run_pb2.RunCircuitsRequest(sweep=sweep))
        sizes: list[int] = []

        def chunks() -> Iterator[common_pb2.TensorChunk]:
            for message in stream:
                if not message.HasField("chunk"):
                    continue
                if message.chunk.is_last:
                    sizes.append(message.edge_count)
                yield message.chunk

        arrays = [array for _, array in collect_chunks(chunks(), self.arrays)]
        return dict(zip(sizes, arrays))

    def evaluate(
        self,
        scores: Scores,
        edge_counts: SizesLike = None,
        metrics: Sequence[str] | None = None,
        *,
        dataset: DatasetLike | None = None,
        patch_type: str | PatchType = "tree_patch",
        ablation: Ablation = "resample",
        reverse_clean_corrupt: bool = False,
        signed_scores: bool = False,
        batch_size: int | None = None,
        prompt_count: int | None = None,
        tail_divergence: bool = False,
        true_edge_count: int | None = None,
        zero_edges: bool | None = None,
        all_edges: bool | None = None,
        fwd_hooks: FwdHooks = None,
        progress: bool = True,
    ) -> Evaluation:
        """How faithful circuits of several sizes are: a row a circuit, smallest first, ready for a data
        frame: ``{"edge_count": 100, "kl_div": 0.8, "answer_diff": 2.1, ...}``.

        ``metrics``: of ``kl_div, corrupt_kl_div, answer_diff, answer_diff_percent,
        answer_diff_percent_by_row, answer_value, wrong_answer_value, answer_prob, answer_logprob,
        answer_prob_diff, answer_prob_diff_percent, answer_logprob_diff, answer_logprob_diff_percent,
        correct_answer_percent, correct_answer_greater_than_incorrect_percent, mse``; None: ``kl_div,
        answer_diff, correct_answer_percent``. Otherwise as :meth:`run_circuits`. The result's ``areas``
        has the areas under the curves by metric: AutoCircuit's AUC, the plain one, MIB's CPR and CMD.
        """
        sweep = make_sweep(
            scores,
            dataset_id=self.upload_dataset(dataset).id if dataset is not None else "",
            edge_counts=edge_counts,
            patch_type=patch_type,
            ablation=ablation,
            reverse_clean_corrupt=reverse_clean_corrupt,
            signed_scores=signed_scores,
            batch_size=batch_size,
            prompt_count=prompt_count,
            tail_divergence=tail_divergence,
            true_edge_count=true_edge_count,
            zero_edges=zero_edges,
            all_edges=all_edges,
            fwd_hooks=fwd_hooks,
        )
        request = evaluate_pb2.EvaluateCircuitsRequest(sweep=sweep, metrics=metric_values(metrics))
        rows = Evaluation()
        with self._call("EvaluateCircuits", request) as stream, tqdm(
            desc="evaluating", unit="pass", disable=not progress
        ) as bar:
            for message in stream:
                if message.HasField("progress"):
                    bar.total = message.progress.total_count
                    bar.update(message.progress.done_count - bar.n)
                    continue
                if bar.total is not None:  # all passes are done now
                    bar.update(bar.total - bar.n)
                rows._add(message)
        return rows

    def completeness(
        self,
        scores: Scores,
        knockouts: Scores,
        edge_counts: Sequence[int],
        *,
        knockout_threshold: float = 0.0,
        dataset: DatasetLike | None = None,
        ablation: Ablation = "resample",
        batch_size: int | None = None,
        prompt_count: int | None = None,
        fwd_hooks: FwdHooks = None,
    ) -> list[Completeness]:
        """Same under knockouts, AutoCircuit's ``same_under_knockout``: KL of model and circuit, and of
        the two when both lose the circuit's edges whose score in ``knockouts`` (not its size) is at
        least ``knockout_threshold``. One row a circuit.
        """
        sweep = make_sweep(
            scores,
            dataset_id=self.upload_dataset(dataset).id if dataset is not None else "",
            edge_counts=edge_counts,
            patch_type="tree_patch",
            ablation=ablation,
            reverse_clean_corrupt=False,
            batch_size=batch_size,
            prompt_count=prompt_count,
            fwd_hooks=fwd_hooks,
        )
        request = evaluate_pb2.MeasureCompletenessRequest(
            sweep=sweep, knockout_job_id=job_id_of(knockouts), knockout_threshold=knockout_threshold
        )
        return [
            Completeness(row.edge_count, row.knockout_count, row.kl_div, row.knockout_kl_div)
            for row in self._call("MeasureCompleteness", request)
        ]

    def roc(
        self,
        scores: Scores,
        reference: Scores | Sequence[EdgeKey],
        *,
        reference_edge_count: int | None = None,
        edge_counts: Sequence[int] | None = None,
    ) -> Roc:
        """How well scores find a reference circuit, AutoCircuit's ``measure_roc``. ``reference``: names
        of its edges, or scores, of which the best ``reference_edge_count`` (None: all but 0) are it.
        """
        other = job_id_of(reference) if isinstance(reference, (PruneScores, Job, str)) else None
        request = roc_request(job_id_of(scores), reference, other, reference_edge_count, edge_counts)
        out = self._call("MeasureRoc", request)
        points = [(p.false_positive_rate, p.true_positive_rate) for p in out.points]
        return Roc(points, out.area, out.reference_edge_count)

    def compare(
        self, scores: Scores, other: Scores, edge_counts: Sequence[int] | None = None
    ) -> Comparison:
        """How far two sets of scores agree: overlap of their circuits by size (AutoCircuit's
        ``prune_score_similarities``, and Jaccard), rank and plain correlation."""
        request = evaluate_pb2.CompareScoresRequest(
            job_id=job_id_of(scores), other_job_id=job_id_of(other), edge_counts=edge_counts or ()
        )
        return Comparison._from_proto(self._call("CompareScores", request))

    # --- for the other classes ------------------------------------------------------------------

    def _call(self, method: str, request: Any) -> Any:
        self._lazy.sweep()
        return self._channel.call(method, request)

    def _pages(self, method: str, request: Any, field: str) -> Iterable[Any]:
        self._lazy.sweep()
        return self._channel.pages(method, request, field)

    def _decode(self, tensor: common_pb2.Tensor) -> Array:
        return decode(tensor.dtype, tensor.shape, tensor.data, self.arrays)


def skew(client: str, protocol: str, server: str, server_protocol: str) -> str:
    """A sentence if client and daemon do not fit, else ``""``. Within one protocol package fields are
    only ever added, so versions may differ; the package name says when that no longer holds.
    """
    if server_protocol == protocol:
        return ""
    return (
        f"this client ({client}) speaks {protocol} and the daemon ({server}) speaks "
        f"{server_protocol or 'something unnamed'}: install the `ablate` package that belongs to the "
        "daemon's version, or update the daemon"
    )


def load_request(name: str, mode: Mode, dtype: str, device: str) -> model_pb2.LoadModelRequest:
    """The protocol's request; ValueError for an unknown mode or element type."""
    request = model_pb2.LoadModelRequest(name=name, dtype=dtype_value(dtype), device=device)
    if isinstance(mode, str):
        request.mode = enum_value(model_pb2.WeightMode, "WEIGHT_MODE_", mode)
    else:
        request.processing.CopyFrom(processing(mode))
    return request


def dtype_value(dtype: str) -> common_pb2.DType:
    """The protocol's number for an element type by name."""
    return enum_value(common_pb2.DType, "DTYPE_", dtype)


def processing(mode: Mode) -> common_pb2.WeightProcessing:
    """A mode as its four transforms; ValueError for an unknown one."""
    names = [field.name for field in common_pb2.WeightProcessing.DESCRIPTOR.fields]
    if isinstance(mode, str):
        if mode not in ("hf", "tl"):
            raise ValueError(f"mode must be 'hf', 'tl' or a dict, not {mode!r}")
        mode = {name: mode == "tl" for name in names}
    if unknown := set(mode) - set(names):
        raise ValueError(f"unknown weight transform {sorted(unknown)[0]!r}; there are {', '.join(names)}")
    return common_pb2.WeightProcessing(**mode)
