# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.data``: prompt pairs in batches, and on the daemon when first used there."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from .._arrays import Array, Backend, to_backend, to_numpy
from .._client import Client
from .._dataset import Dataset
from .._model import Model
from .._patchable import PatchableModel

BatchKey = int
"""Tells a batch from the others."""


@dataclass(frozen=True)
class KvPrefix:
    """Tokens that all prompts begin with, in the place of TransformerLens's key-value cache:
    ``patchable_model(kv_caches=...)`` has the daemon run them once and keep their keys and values.
    """

    tokens: Tuple[int, ...]


@dataclass(frozen=True)
class PromptPair:
    """A clean and a corrupt prompt, ``[seq]`` each, and answers, ``[answers]`` each."""

    clean: Array
    corrupt: Array
    answers: Array
    wrong_answers: Array


@dataclass(frozen=True)
class PromptPairBatch:
    """Prompts ``[batch, seq]`` and answers ``[batch, answers]``, or a list of arrays where prompts
    differ in how many answers they have.
    """

    key: BatchKey
    batch_diverge_idx: int
    """The first position at which any prompt differs from its corrupt one."""
    clean: Array
    corrupt: Array
    answers: Union[List[Array], Array]
    wrong_answers: Union[List[Array], Array]


def _stacked(rows: Sequence[Array]) -> Array:
    """Rows as one array, torch's if they are."""
    return to_backend(np.stack([to_numpy(row) for row in rows]), "torch" if _is_torch(rows[0]) else "numpy")


def _is_torch(array: Any) -> bool:
    return hasattr(array, "detach")


def _ragged(rows: Sequence[Array]) -> Union[List[Array], Array]:
    same = all(row.shape == rows[0].shape for row in rows)
    return _stacked(rows) if same else list(rows)


def collate_fn(batch: List[PromptPair]) -> PromptPairBatch:
    """Pairs as a batch."""
    clean, corrupt = _stacked([pair.clean for pair in batch]), _stacked([pair.corrupt for pair in batch])
    return PromptPairBatch(
        key=hash((str(clean.tolist()), str(corrupt.tolist()))),
        batch_diverge_idx=_diverge_idx(clean, corrupt),
        clean=clean,
        corrupt=corrupt,
        answers=_ragged([pair.answers for pair in batch]),
        wrong_answers=_ragged([pair.wrong_answers for pair in batch]),
    )


def _diverge_idx(clean: Array, corrupt: Array) -> int:
    """The smallest index at which a row differs; 0 if one does not."""
    return int((to_numpy(clean) != to_numpy(corrupt)).argmax(axis=1).min())


def _shared_length(prompts: np.ndarray) -> int:
    """How many tokens all prompts begin with, the last one left to each."""
    same = (prompts[:, :-1] == prompts[:1, :-1]).all(axis=0)
    return int(same.size if same.all() else same.argmin())


class PromptDataset:
    """Prompt pairs: prompts as arrays ``[prompts, seq]`` or lists of ``[seq]``, a list of ids a prompt as
    its answers.
    """

    def __init__(
        self,
        clean_prompts: Union[List[Array], Array],
        corrupt_prompts: Union[List[Array], Array],
        answers: List[Array],
        wrong_answers: List[Array],
    ):
        self.clean_prompts = clean_prompts
        self.corrupt_prompts = corrupt_prompts
        self.answers = answers
        self.wrong_answers = wrong_answers

    def __len__(self) -> int:
        if len(self.clean_prompts) != len(self.corrupt_prompts):
            raise ValueError(
                f"there are {len(self.clean_prompts)} clean prompts and {len(self.corrupt_prompts)} corrupt ones"
            )
        return len(self.clean_prompts)

    def __getitem__(self, idx: int) -> PromptPair:
        return PromptPair(
            self.clean_prompts[idx], self.corrupt_prompts[idx], self.answers[idx], self.wrong_answers[idx]
        )


class PromptDataLoader:
    """Batches of a dataset, all of one size: a last one that is smaller is left out. The order is the
    dataset's. :meth:`resident` has the same prompts on a daemon.
    """

    def __init__(
        self,
        prompt_dataset: Any,
        seq_len: Optional[int],
        diverge_idx: int,
        kv_cache: Optional[KvPrefix] = None,
        seq_labels: Optional[List[str]] = None,
        word_idxs: Optional[Dict[str, int]] = None,
        batch_size: int = 1,
        shuffle: bool = False,
    ):
        if shuffle:
            raise ValueError(
                "batches must keep their order, for results on the daemon are by row: shuffle the prompts "
                "of the dataset, as load_datasets_from_json(shuffle=True) does"
            )
        if batch_size < 1:
            raise ValueError("batch_size must be 1 or more")
        if kv_cache is not None and diverge_idx <= 0:
            raise ValueError("a kv_cache stands for the tokens before diverge_idx, which must then be above 0")
        self.dataset = prompt_dataset
        self.batch_size = batch_size
        self.seq_len = seq_len
        """Tokens of a prompt, if they were asked for: ``patchable_model``'s ``seq_len``."""
        self.diverge_idx = diverge_idx
        """Tokens that were taken off the front of every prompt."""
        self.seq_labels = seq_labels
        """A label for each position."""
        self.kv_cache = kv_cache
        """What was taken off, for ``patchable_model(kv_caches=...)``."""
        self.word_idxs: Dict[str, int] = word_idxs or {}
        """Positions of words, by name."""
        self._resident: Dict[Tuple[int, bool], Dataset] = {}

    def __len__(self) -> int:
        return len(self.dataset) // self.batch_size

    def __iter__(self) -> Iterator[PromptPairBatch]:
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield collate_fn([self.dataset[i] for i in range(start, start + self.batch_size)])

    def prompts(self, whole: bool) -> List[Dict[str, List[int]]]:
        """The prompts of all batches as ids; ``whole``: with what was taken off their front."""
        prefix = list(self.kv_cache.tokens) if whole and self.kv_cache is not None else []

        def ids(array: Array) -> List[int]:
            return [int(i) for i in to_numpy(array).reshape(-1)]

        return [
            {
                "clean": prefix + ids(pair.clean),
                "corrupt": prefix + ids(pair.corrupt),
                "answers": ids(pair.answers),
                "wrong_answers": ids(pair.wrong_answers),
            }
            for pair in (self.dataset[i] for i in range(len(self) * self.batch_size))
        ]

    def resident(self, client: Client, whole: bool) -> Dataset:
        """The dataset of these prompts on a daemon, uploaded once."""
        if len(self) == 0:
            raise ValueError(f"{len(self.dataset)} prompts do not fill a batch of {self.batch_size}")
        key = (id(client), whole)
        if key not in self._resident:
            self._resident[key] = client.upload_dataset({"prompts": self.prompts(whole)}, "auto_circuit")
        return self._resident[key]


def load_datasets_from_json(
    model: Any,
    path: Union[Path, List[Path]],
    device: Any,
    prepend_bos: bool = True,
    batch_size: Union[int, Tuple[int, int]] = 32,
    train_test_size: Tuple[int, int] = (128, 128),
    return_seq_length: bool = False,
    tail_divergence: bool = False,
    shuffle: bool = True,
    random_seed: int = 42,
    pad: bool = True,
) -> Tuple[PromptDataLoader, PromptDataLoader]:
    """(train, test) loaders of a file in AutoCircuit's JSON; of several files, labels are the first's.

    ``model``: who tokenizes; None for files of token ids. ``device`` is not looked at: prompts travel.
    ``shuffle``: once, by ``random_seed``, in AutoCircuit's order. ``batch_size``: a pair is (train,
    test). ``tail_divergence``: the prefix that all prompts share, clean and corrupt, is taken off; the
    loaders' ``kv_cache`` stands for it.

    Raises ValueError for prompts of different lengths (nothing is padded, whatever ``pad`` says),
    answers of several tokens, and too few prompts.
    """
    paths = path if isinstance(path, list) else [path]
    files = [json.loads(Path(one).read_text(encoding="utf-8")) for one in paths]
    rows = [row for file in files for row in file["prompts"]]
    if shuffle:
        random.Random(random_seed).shuffle(rows)
    train_count, test_count = train_test_size
    if len(rows) < train_count + test_count:
        raise ValueError(
            f"{len(rows)} prompts are too few for train_test_size={tuple(train_test_size)}; give smaller ones"
        )
    rows = rows[: train_count + test_count]
    tokenize = _Tokenize(model, prepend_bos)
    clean, corrupt = (tokenize.prompts([row[key] for row in rows]) for key in ("clean", "corrupt"))
    if clean.shape != corrupt.shape:
        raise ValueError(f"clean prompts have {clean.shape[1]} tokens and corrupt ones {corrupt.shape[1]}")
    labels, words = files[0].get("seq_labels"), files[0].get("word_idxs", {})
    if prepend_bos:
        labels = None if labels is None else ["<|BOS|>", *labels]
        words = {word: position + 1 for word, position in words.items()}
    cut = _shared_length(np.concatenate([clean, corrupt])) if tail_divergence else 0
    kv_cache = None
    if cut > 0:
        kv_cache = KvPrefix(tuple(int(i) for i in clean[0, :cut]))
        labels = None if labels is None else labels[cut:]
        clean, corrupt = clean[:, cut:], corrupt[:, cut:]
    whole_length = return_seq_length or model is None
    backend = tokenize.backend
    answers, wrong_answers = (tokenize.answers([row[key] for row in rows]) for key in ("answers", "wrong_answers"))

    def loader(begin: int, end: int, size: int) -> PromptDataLoader:
        part = PromptDataset(
            to_backend(clean[begin:end], backend),
            to_backend(corrupt[begin:end], backend),
            [to_backend(one, backend) for one in answers[begin:end]],
            [to_backend(one, backend) for one in wrong_answers[begin:end]],
        )
        seq_len = clean.shape[1] if whole_length else None
        return PromptDataLoader(part, seq_len, cut, kv_cache, labels, words, batch_size=size)

    train_size, test_size = batch_size if isinstance(batch_size, tuple) else (batch_size, batch_size)
    train = loader(0, train_count, train_size)
    return train, loader(train_count, train_count + test_count, test_size)


class _Tokenize:
    """Texts to ids, by whatever model it is."""

    def __init__(self, model: Any, prepend_bos: bool):
        if model is None and prepend_bos:
            raise ValueError("prepend_bos=True needs a model, whose tokenizer says what the BOS is")
        self.model = model.wrapped_model if isinstance(model, PatchableModel) else model
        self.prepend_bos = prepend_bos
        self.backend: Backend = self.model.client.arrays if isinstance(self.model, Model) else "auto"

    def _ids(self, texts: List[str], prepend_bos: bool) -> List[List[int]]:
        if isinstance(self.model, Model):
            return self.model.to_token_lists(texts, prepend_bos)
        tokenizer = self.model.tokenizer
        begin = tokenizer.bos_token if prepend_bos else ""
        return [list(tokenizer(begin + text)["input_ids"]) for text in texts]

    def prompts(self, prompts: List[Any]) -> np.ndarray:
        """int64 ``[prompts, seq]``."""
        lists = prompts if self.model is None else self._ids(prompts, self.prepend_bos)
        lengths = sorted({len(ids) for ids in lists})
        if len(lengths) > 1:
            raise ValueError(
                f"the prompts have from {lengths[0]} to {lengths[-1]} tokens; all must have one length, for "
                "nothing is padded: ablations are made position by position"
            )
        return np.array(lists, dtype=np.int64)

    def answers(self, answers: List[List[Any]]) -> List[np.ndarray]:
        """int64 ``[answers]``, one array a prompt."""
        if self.model is None:
            return [np.array(one, dtype=np.int64) for one in answers]
        texts = sorted({text for one in answers for text in one})
        ids = dict(zip(texts, self._ids(texts, False)))
        for text, tokens in ids.items():
            if len(tokens) != 1:
                raise ValueError(f"the answer {text!r} is {len(tokens)} tokens; an answer is one token")
        return [np.array([ids[text][0] for text in one], dtype=np.int64) for one in answers]
