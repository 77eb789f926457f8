# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.utils.misc``, without what works on modules or pickles."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Optional, Set

import numpy as np

from ..._arrays import to_numpy
from ..._model import Model
from .._missing import missing_from
from .._session import client


def repo_path_to_abs_path(path: str) -> Path:
    """A path as it is if absolute, else below the working directory: here there is no repository."""
    return Path.cwd() / path


@contextmanager
def remove_hooks() -> Iterator[Set[Any]]:
    """An empty set; what is put into it, results of ``model.add_hook``, is removed with the block."""
    handles: Set[Any] = set()
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


def percent_gpu_mem_used(total_gpu_mib: int = 49000) -> str:
    """``"Memory used 12.3%"``: what is resident on the daemon, of ``total_gpu_mib``.

    Raises :class:`ablate.UnavailableError` if no daemon answers.
    """
    resident = client().server_info().resident_bytes
    used = sum(value for _, value in resident.ListFields())
    return f"Memory used {used / 2**20 / total_gpu_mib:.1%}"


def run_prompt(
    model: Any, prompt: str, answer: Optional[str] = None, top_k: int = 10, prepend_bos: bool = False
) -> None:
    """Prints the ``top_k`` next tokens of a prompt, and the rank of ``answer``.

    Raises what :meth:`ablate.Model.forward` raises, and ValueError for an answer of several tokens.
    """
    print("\nTesting prompt", model.to_str_tokens(prompt))
    tokens = model.to_tokens(prompt, prepend_bos=prepend_bos)
    get_most_similar_embeddings(model, model(tokens)[0, -1], answer, top_k=top_k)


def get_most_similar_embeddings(
    model: Any,
    out: Any,
    answer: Optional[str] = None,
    top_k: int = 10,
    apply_ln_final: bool = False,
    apply_unembed: bool = False,
    apply_embed: bool = False,
) -> None:
    """Prints the ``top_k`` tokens of logits ``[d_vocab]``, or, with ``apply_embed`` or
    ``apply_unembed``, those whose embedding (unembedding) is nearest to a vector ``[d_model]``, through
    the final norm with ``apply_ln_final``; and the rank of ``answer``.

    Raises ValueError for both at once, and for an answer of several tokens.
    """
    if apply_embed and apply_unembed:
        raise ValueError("apply_embed and apply_unembed: take one")
    below: Model = getattr(model, "wrapped_model", model)
    logits = to_numpy(out).reshape(-1).astype(np.float64)
    if apply_ln_final:
        logits = _ln_final(below, logits)
    if apply_embed:
        logits = to_numpy(below.embed.W_E) @ logits
    elif apply_unembed:
        logits = logits @ to_numpy(below.unembed.W_U) + to_numpy(below.unembed.b_U)
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    order = np.argsort(-logits, kind="stable")
    if answer is not None:
        token = below.to_single_token(answer)
        rank = int(np.flatnonzero(order == token)[0])
        print(f'\n"{answer}" token rank: {rank:<8} \nLogit: {logits[token]:5.2f} Prob: {probs[token]:6.2%}')
    for place, token in enumerate(order[:top_k]):
        text = below.to_string([int(token)])
        print(f'Top {place}th token. Logit: {logits[token]:5.2f} Prob: {probs[token]:6.2%} Token: "{text}"')


def _ln_final(model: Model, vector: np.ndarray) -> np.ndarray:
    """The final norm, with its weights where they are not folded."""
    if model.cfg.normalization_type is None:
        return vector
    centred = vector if "RMS" in model.cfg.normalization_type else vector - vector.mean()
    normed = centred / np.sqrt((centred**2).mean() + model.cfg.eps)
    names = set(model.parameters())
    weight = to_numpy(model.ln_final.w) if "ln_final.w" in names else 1.0
    bias = to_numpy(model.ln_final.b) if "ln_final.b" in names else 0.0
    return np.asarray(normed * weight + bias)


__getattr__ = missing_from(__name__)
