# SPDX-License-Identifier: Apache-2.0
"""A graph's scores: jobs that make them, and scores that come from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Iterable, Mapping

from ._algorithms import Algorithm, make_spec
from ._arrays import Array, bos_policy, encode_float
from ._dataset import Dataset, DatasetLike
from ._hooks import FwdHooks, make_interventions
from ._interop import EapGraph, PathLike, from_eap_graph, load_scores, save_scores, to_eap_graph
from ._jobs import GRACE_MS, Job, PruneScores, PruneStream, follow
from ._topology import EdgeKey, Topology, edge_values
from .v1 import mask_pb2, prune_pb2


class GraphScores(Topology):
    """The part of :class:`Graph` that scores its edges."""

    def submit(
        self,
        dataset: DatasetLike,
        algo: str | Algorithm = "eap",
        *,
        batch_size: int | None = None,
        prompt_count: int | None = None,
        prepend_bos: bool | None = None,
        tail_divergence: bool = False,
        fwd_hooks: FwdHooks = None,
        top_k: int = 10,
    ) -> Job:
        """Queues a job and returns at once; follow it with :meth:`Job.watch`."""
        spec = self._spec(
            dataset, algo, batch_size, prompt_count, prepend_bos, tail_divergence, fwd_hooks, top_k
        )
        return Job(self.client, self.client._call("SubmitJob", prune_pb2.SubmitJobRequest(spec=spec)).job)

    def stream_prune_scores(
        self,
        dataset: DatasetLike,
        algo: str | Algorithm = "eap",
        *,
        batch_size: int | None = None,
        prompt_count: int | None = None,
        prepend_bos: bool | None = None,
        tail_divergence: bool = False,
        fwd_hooks: FwdHooks = None,
        top_k: int = 10,
        with_scores: bool = False,
    ) -> PruneStream:
        """Partial results while the scores form: an iterator of :class:`JobEvent`.

        Leaving the loop's ``with`` block cancels the job on the daemon. ``with_scores``: events come with
        all scores as of them, not the top ones alone. Other options as in :meth:`prune_scores`.
        """
        spec = self._spec(
            dataset, algo, batch_size, prompt_count, prepend_bos, tail_divergence, fwd_hooks, top_k
        )
        request = prune_pb2.StreamPruneScoresRequest(spec=spec, grace_ms=GRACE_MS, with_scores=with_scores)
        return PruneStream(self.client, self.client._call("StreamPruneScores", request), with_scores)

    def prune_scores(
        self,
        dataset: DatasetLike,
        algo: str | Algorithm = "eap",
        *,
        batch_size: int | None = None,
        prompt_count: int | None = None,
        prepend_bos: bool | None = None,
        tail_divergence: bool = False,
        fwd_hooks: FwdHooks = None,
        top_k: int = 10,
        progress: bool = True,
    ) -> PruneScores:
        """A score for every edge: a dict of arrays, named and shaped as AutoCircuit's PruneScores.

        ``dataset``: a :class:`Dataset`, or a path, dict or JSON text in AutoCircuit's format.
        ``algo``: ``"eap"``, ``"mask_gradient"``, ``"ground_truth"``, ``"random"``,
        ``"activation_magnitude"``, ``"eap_ig"``, ``"acdc"``, ``"subnetwork_probing"``, or one of their
        classes with options (:class:`CircuitProbing` has no defaults). ``batch_size``: prompts a batch
        (None: 8). ``prompt_count``: only the first prompts of the dataset.
        ``tail_divergence``: the prefix that all prompts share is run once; scores cover the tails.
        ``fwd_hooks``: interventions of this job alone, as :meth:`run_with_hooks` takes them, behind the
        graph's own hooks; both are in force in all its runs.

        Ctrl-C cancels the job on the daemon; the KeyboardInterrupt says where its scores so far are.
        Raises :class:`ablate.InvalidArgumentError` for prompts of unequal length and answers that
        are not one token, :class:`ablate.ResourceExhaustedError` for a full queue.
        """
        with self.stream_prune_scores(
            dataset,
            algo,
            batch_size=batch_size,
            prompt_count=prompt_count,
            prepend_bos=prepend_bos,
            tail_divergence=tail_divergence,
            fwd_hooks=fwd_hooks,
            top_k=top_k,
        ) as stream:
            follow(stream.job, iter(stream), progress)
            return stream.scores

    def _spec(
        self,
        dataset: DatasetLike,
        algo: str | Algorithm,
        batch_size: int | None,
        prompt_count: int | None,
        prepend_bos: bool | None,
        tail_divergence: bool,
        fwd_hooks: FwdHooks,
        top_k: int,
    ) -> prune_pb2.PruneJobSpec:
        if not isinstance(dataset, Dataset):
            dataset = self.client.upload_dataset(dataset)
        spec = make_spec(
            self.id,
            dataset.id,
            algo,
            batch_size=batch_size,
            prompt_count=prompt_count,
            prepend_bos=prepend_bos,
            tail_divergence=tail_divergence,
            top_k=top_k,
        )
        spec.interventions.extend(make_interventions(fwd_hooks))
        return spec

    # --- scores from elsewhere --------------------------------------------------------------------

    def upload_scores(
        self, scores: Mapping[Any, Any], *, origin: str = "", prepend_bos: bool | None = None
    ) -> PruneScores:
        """Keeps scores on the daemon, so that circuits of them can be run, masked, measured.

        ``scores``: module names with an array each (a PruneScores, AutoCircuit's included; a module
        that is missing scores 0), or edges (:data:`EdgeKey`) with a number each. ``origin``: where they
        come from, for listings. ``prepend_bos``: how prompts are tokenized when they are used.

        Raises :class:`ablate.InvalidArgumentError` (``SCORES_NOT_FINITE`` for a NaN, ``TENSOR_SHAPE``,
        ``EDGE_NOT_IN_GRAPH``) and :class:`ablate.NotFoundError` (``NODE_UNKNOWN``, ``MODULE_UNKNOWN``).
        """
        if scores and all(isinstance(key, str) and "->" not in key for key in scores):
            tensors = [
                mask_pb2.NamedTensor(name=name, tensor=encode_float(array)) for name, array in scores.items()
            ]
            return self._create_scores(origin, prepend_bos, modules=prune_pb2.ModuleScores(tensors=tensors))
        edges = prune_pb2.EdgeScores(edges=edge_values(scores))
        return self._create_scores(origin, prepend_bos, edges=edges)

    def load_scores(self, path: PathLike, *, prepend_bos: bool | None = None) -> PruneScores:
        """Uploads a file of scores: safetensors with AutoCircuit's names, or the graph JSON of EAP-IG
        and MIB (``.json``), whose ``in_graph`` :meth:`read_eap_graph` has, too."""
        if os.fspath(path).endswith(".json"):
            arrays = self.read_eap_graph(path).scores
        else:
            arrays = load_scores(path)
        return self.upload_scores(arrays, origin=Path(path).name, prepend_bos=prepend_bos)

    def save_scores(self, scores: PruneScores, path: PathLike) -> None:
        """Writes scores as safetensors, or, by the ending ``.json``, as a graph file of EAP-IG and MIB
        with every edge in the graph; :meth:`eap_graph` takes a mask."""
        if os.fspath(path).endswith(".json"):
            self.eap_graph(scores).save(path)
        else:
            save_scores(scores, path, {"job": scores.job.id})

    def eap_graph(
        self, scores: Mapping[str, Array], mask: Mapping[str, Array] | None = None
    ) -> EapGraph:
        """Scores as a graph file of EAP-IG and MIB; ``mask`` (1 = ablated, as :meth:`get_patch_mask`
        gives it): edges that are not ``in_graph``."""
        return to_eap_graph(self, scores, mask)

    def read_eap_graph(self, source: PathLike | Mapping[str, Any]) -> EapGraph:
        """Reads a graph file of EAP-IG or MIB (a path, or its content): scores, mask, nodes. A file of
        another model is refused, saying which fields of its ``cfg`` differ."""
        return from_eap_graph(self, source)

    def new_prune_scores(self, init_val: float = 0.0) -> PruneScores:
        """The same score for every edge, as AutoCircuit's method."""
        return self._create_scores("new_prune_scores", None, init_val=float(init_val))

    def circuit_prune_scores(
        self,
        edges: Iterable[EdgeKey] | None = None,
        edge_dict: Mapping[EdgeKey, float] | None = None,
        bool: bool = False,
    ) -> PruneScores:
        """1 (or True) for these edges, or the dict's values, and 0 for all others: AutoCircuit's
        method. Names work in ``edge_dict``, too; a name that is no edge of the graph is an error."""
        if (edges is None) == (edge_dict is None):
            raise ValueError("give edges or edge_dict")
        values = dict.fromkeys(edges, 1.0) if edges is not None else edge_dict or {}
        made = prune_pb2.EdgeScores(edges=edge_values(values))
        scores = self._create_scores("circuit_prune_scores", None, edges=made)
        if bool:
            for name, array in scores.items():
                scores[name] = array != 0
        return scores

    def current_patch_masks_as_prune_scores(self) -> PruneScores:
        """The patch mask as it is now, as scores: AutoCircuit's method."""
        return self._create_scores("current_patch_masks_as_prune_scores", None, current_mask=True)

    def _create_scores(self, origin: str, prepend_bos: bool | None, **scores: Any) -> PruneScores:
        request = prune_pb2.CreatePruneScoresRequest(
            graph_id=self.id, origin=origin, bos=bos_policy(prepend_bos), **scores
        )
        return Job(self.client, self.client._call("CreatePruneScores", request).job).scores()
