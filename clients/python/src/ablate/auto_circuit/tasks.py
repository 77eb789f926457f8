# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.tasks``: a task is a model, a dataset and, where known, its circuit. The
registry is empty: AutoCircuit's own tasks are files of its repository. A task of yours is in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Callable, Dict, List, Optional, Set, Tuple, Union

from .data import PromptDataLoader, load_datasets_from_json
from .experiment_utils import load_tl_model
from .types import Edge, OutputSlice, TaskKey
from .utils.graph_utils import patchable_model
from .utils.misc import repo_path_to_abs_path
from .utils.patchable_model import PatchableModel


@dataclass
class Task:
    """A task, whose model and data are made when they are first used.

    ``_model_def``: a model's name on the daemon, or what ``patchable_model`` takes. ``_dataset_name``:
    ``datasets/<name>.json`` below the working directory, or a path that ends in ``.json``.
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

    def __post_init__(self) -> None:
        TASK_DICT[self.key] = self

    @cached_property
    def _base(self) -> Any:
        return load_tl_model(self._model_def, None) if isinstance(self._model_def, str) else self._model_def

    @cached_property
    def _loaders(self) -> Tuple[PromptDataLoader, PromptDataLoader]:
        sizes, counts = (
            one if isinstance(one, tuple) else (one, one) for one in (self.batch_size, self.batch_count)
        )
        name = self._dataset_name
        has_tokenizer = getattr(self._base, "has_tokenizer", True)
        return load_datasets_from_json(
            model=self._base if has_tokenizer else None,
            path=repo_path_to_abs_path(name if name.endswith(".json") else f"datasets/{name}.json"),
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
TASKS: List[Task] = []
