# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.tasks``: a task is a model, a dataset and, where known, its circuit.

Its own tasks are in the registry, and a task of yours joins them when it is made. Their datasets are
files of AutoCircuit's repository: they are looked for in ``datasets/`` below the working directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple, Union, get_args

from ._session import client
from .data import PromptDataLoader, load_datasets_from_json
from .experiment_utils import load_tl_model
from .metrics.official_circuits.circuits.docstring_official import (
    docstring_node_based_official_edges,
    docstring_true_edges,
)
from .metrics.official_circuits.circuits.greaterthan_official import greaterthan_true_edges
from .metrics.official_circuits.circuits.ioi_official import ioi_head_based_official_edges, ioi_true_edges
from .metrics.official_circuits.circuits.sports_players_official import sports_players_true_edges
from .metrics.official_circuits.circuits.tracr.reverse_official import tracr_reverse_true_edges
from .metrics.official_circuits.circuits.tracr.xproportion_official import tracr_xproportion_official_edges
from .model_utils.tracr_model_utils import TRACR_TASK_KEY
from .types import AutoencoderInput, Edge, OutputSlice, TaskKey
from .utils.graph_utils import patchable_model
from .utils.misc import repo_path_to_abs_path
from .utils.patchable_model import PatchableModel

MODEL_CACHE: Dict[Any, Any] = {}
"""Stays empty: models stay on the daemon, which gives the same one to all who ask."""
DATASET_CACHE: Dict[Any, Tuple[PromptDataLoader, PromptDataLoader]] = {}
"""Stays empty: a task keeps its own."""


@dataclass
class Task:
    """A task, whose model and data are made when they are first used.

    ``_model_def``: a model's name on the daemon, or what ``patchable_model`` takes; ``"reverse"`` and
    ``"xproportion"`` are compiled models, uploaded by that name (:func:`ablate.tracr.upload`).
    ``_dataset_name``: ``datasets/<name>.json`` below the working directory, or a path that ends in
    ``.json``. ``dtype`` other than float32: weights in it, without processing, as AutoCircuit has it.

    Using it raises FileNotFoundError for a dataset that is not there, NotImplementedError with
    ``autoencoder_input``, and what loading the model raises.
    ``_true_edge_func(model)``, with ``token_positions=True, word_idxs=..., seq_start_idx=...`` where
    ``token_circuit``, gives the official edges.
    """

    key: TaskKey
    name: str
    batch_size: Union[int, Tuple[int, int]]
    batch_count: Union[int, Tuple[int, int]]
    token_circuit: bool
    _model_def: Any
    _dataset_name: str
    factorized: bool = True
    separate_qkv: bool = True
    _true_edge_func: Optional[Callable[..., Set[Edge]]] = None
    slice_output: OutputSlice = "last_seq"
    autoencoder_input: Optional[AutoencoderInput] = None
    autoencoder_max_latents: Optional[int] = None
    autoencoder_pythia_size: Optional[str] = None
    autoencoder_prune_with_corrupt: Optional[bool] = None
    dtype: Any = "float32"

    def __post_init__(self) -> None:
        TASK_DICT[self.key] = self

    def init_task(self) -> None:
        """Makes the model, the loaders and the official circuit now; raises as using them does."""
        _ = (self.model, self.test_loader, self.true_edges)

    def _path(self) -> Path:
        """Of the dataset."""
        if self.autoencoder_input is not None:
            raise NotImplementedError(
                f"the task {self.key!r} has a sparse autoencoder in each block, which is code, and the daemon runs "
                "none of its callers'; the same task without autoencoder_input works"
            )
        name = self._dataset_name
        path = repo_path_to_abs_path(name if name.endswith(".json") else f"datasets/{name}.json")
        if not path.is_file():
            raise FileNotFoundError(
                f"the task {self.key!r} needs {path}, which is not there; AutoCircuit's repository has its tasks' "
                "datasets: run where that folder is, or make a Task with a path of yours"
            )
        return path

    @cached_property
    def _base(self) -> Any:
        if not isinstance(self._model_def, str):
            return self._model_def
        if self._model_def in get_args(TRACR_TASK_KEY):
            return client().model(self._model_def)
        dtype = str(self.dtype).removeprefix("torch.")
        if dtype != "float32":
            # Whatever the task says: load_model refuses what there is not.
            return client().load_model(self._model_def, "hf", dtype=dtype)  # type: ignore[arg-type]
        return load_tl_model(self._model_def, None)

    @cached_property
    def _loaders(self) -> Tuple[PromptDataLoader, PromptDataLoader]:
        sizes, counts = (
            one if isinstance(one, tuple) else (one, one) for one in (self.batch_size, self.batch_count)
        )
        path = self._path()
        has_tokenizer = getattr(self._base, "has_tokenizer", True)
        return load_datasets_from_json(
            model=self._base if has_tokenizer else None,
            path=path,
            device=None,
            prepend_bos=has_tokenizer,
            batch_size=sizes,
            train_test_size=(sizes[0] * counts[0], sizes[1] * counts[1]),
            return_seq_length=self.token_circuit,
            tail_divergence=has_tokenizer,
        )

    @property
    def train_loader(self) -> PromptDataLoader:
        """What algorithms score."""
        return self._loaders[0]

    @property
    def test_loader(self) -> PromptDataLoader:
        """What metrics measure."""
        return self._loaders[1]

    @cached_property
    def model(self) -> PatchableModel:
        """The graph of the task."""
        return patchable_model(
            self._base,
            factorized=self.factorized,
            slice_output=self.slice_output,
            seq_len=self.train_loader.seq_len,
            separate_qkv=self.separate_qkv,
            kv_caches=(self.train_loader.kv_cache, self.test_loader.kv_cache),
        )

    @cached_property
    def true_edges(self) -> Optional[Set[Edge]]:
        """The official circuit; None where none is known."""
        if self._true_edge_func is None:
            return None
        if not self.token_circuit:
            return self._true_edge_func(self.model)
        return self._true_edge_func(
            self.model,
            token_positions=True,
            word_idxs=self.train_loader.word_idxs,
            seq_start_idx=self.train_loader.diverge_idx,
        )

    @property
    def true_edge_count(self) -> Optional[int]:
        """Its size."""
        return None if self.true_edges is None else len(self.true_edges)


TASK_DICT: Dict[TaskKey, Task] = {}
"""All tasks by key, yours included."""

SPORTS_PLAYERS_TOKEN_CIRCUIT_TASK = Task(
    key="Sports Players Token Circuit", name="Sports Players", batch_size=(10, 20), batch_count=(10, 5),
    token_circuit=True, _model_def="pythia-2.8b-deduped",
    _dataset_name="sports-players/sports_players_pythia-2.8b-deduped_prompts", separate_qkv=False,
    _true_edge_func=sports_players_true_edges,
)  # fmt: skip
SPORTS_PLAYERS_COMPONENT_CIRCUIT_TASK = Task(
    key="Sports Players Component Circuit", name="Sports Players", batch_size=15, batch_count=7,
    token_circuit=False, _model_def="pythia-2.8b-deduped",
    _dataset_name="sports-players/sports_players_pythia-2.8b-deduped_prompts", separate_qkv=False,
    _true_edge_func=sports_players_true_edges, dtype="bfloat16",
)  # fmt: skip
IOI_TOKEN_CIRCUIT_TASK = Task(
    key="Indirect Object Identification Token Circuit", name="Indirect Object Identification", batch_size=(300,
    100), batch_count=(1, 1), token_circuit=True, _model_def="gpt2-small",
    _dataset_name="ioi/ioi_vanilla_template_prompts", _true_edge_func=ioi_head_based_official_edges,
)  # fmt: skip
IOI_COMPONENT_CIRCUIT_TASK = Task(
    key="Indirect Object Identification Component Circuit", name="Indirect Object Identification", batch_size=64,
    batch_count=2, token_circuit=False, _model_def="gpt2-small", _dataset_name="ioi_prompts",
    _true_edge_func=ioi_true_edges,
)  # fmt: skip
IOI_GPT2_AUTOENCODER_COMPONENT_CIRCUIT_TASK = Task(
    key="Indirect Object Identification GPT2 Autoencoder Component Circuit", name="Indirect Object Identification",
    batch_size=1, batch_count=2, token_circuit=False, _model_def="gpt2-small", _dataset_name="ioi_prompts",
    autoencoder_input="resid_delta_mlp", autoencoder_prune_with_corrupt=False,
)  # fmt: skip
DOCSTRING_TOKEN_CIRCUIT_TASK = Task(
    key="Docstring Token Circuit", name="Docstring", batch_size=128, batch_count=2, token_circuit=True,
    _model_def="attn-only-4l", _dataset_name="docstring_prompts",
    _true_edge_func=docstring_node_based_official_edges,
)  # fmt: skip
DOCSTRING_COMPONENT_CIRCUIT_TASK = Task(
    key="Docstring Component Circuit", name="Docstring", batch_size=128, batch_count=2, token_circuit=False,
    _model_def="attn-only-4l", _dataset_name="docstring_prompts", _true_edge_func=docstring_true_edges,
)  # fmt: skip
GREATERTHAN_COMPONENT_CIRCUIT_TASK = Task(
    key="Greaterthan Component Circuit", name="Greaterthan", batch_size=64, batch_count=2, token_circuit=False,
    _model_def="gpt2-small", _dataset_name="greaterthan_gpt2-small_prompts", _true_edge_func=greaterthan_true_edges,
)  # fmt: skip
GREATERTHAN_GPT2_AUTOENCODER_COMPONENT_CIRCUIT_TASK = Task(
    key="Greaterthan GPT2 Autoencoder Component Circuit", name="Greaterthan", batch_size=1, batch_count=2,
    token_circuit=False, _model_def="gpt2-small", _dataset_name="greaterthan_gpt2-small_prompts",
    autoencoder_input="resid_delta_mlp", autoencoder_prune_with_corrupt=False,
)  # fmt: skip
ANIMAL_DIET_GPT2_AUTOENCODER_COMPONENT_CIRCUIT_TASK = Task(
    key="Animal Diet GPT2 Autoencoder Component Circuit", name="Animal Diet", batch_size=2, batch_count=16,
    token_circuit=False, _model_def="gpt2-small", _dataset_name="animal_diet_short_prompts",
    autoencoder_input="resid_delta_mlp", autoencoder_prune_with_corrupt=False,
)  # fmt: skip
CAPITAL_CITIES_PYTHIA_70M_AUTOENCODER_COMPONENT_CIRCUIT_TASK = Task(
    key="Capital Cities Pythia 70M Deduped Autoencoder Component Circuit", name="Capital Cities", batch_size=2,
    batch_count=4, token_circuit=True, _model_def="pythia-70m-deduped",
    _dataset_name="capital_cities_pythia-70m-deduped_prompts", autoencoder_input="resid_delta_mlp",
    autoencoder_max_latents=200, autoencoder_pythia_size="2_32768", autoencoder_prune_with_corrupt=False,
)  # fmt: skip
TRACR_XPROPORTION_TOKEN_CIRCUIT_TASK = Task(
    key="Tracr xproportion Token Circuit", name="Tracr xproportion", batch_size=64, batch_count=8,
    token_circuit=True, _model_def="xproportion", _dataset_name="tracr/tracr_xproportion_len_5_prompts",
    _true_edge_func=tracr_xproportion_official_edges, slice_output="not_first_seq",
)  # fmt: skip
TRACR_REVERSE_TOKEN_CIRCUIT_TASK = Task(
    key="Tracr reverse Token Circuit", name="Tracr reverse", batch_size=11, batch_count=11, token_circuit=True,
    _model_def="reverse", _dataset_name="tracr/tracr_reverse_len_5_prompts",
    _true_edge_func=tracr_reverse_true_edges, slice_output="not_first_seq",
)  # fmt: skip

TASKS: List[Task] = list(TASK_DICT.values())
"""AutoCircuit's own, in its order."""
