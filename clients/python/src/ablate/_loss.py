# SPDX-License-Identifier: Apache-2.0
"""What TransformerLens's ``return_type`` makes of logits."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Union

import numpy as np

from ._arrays import Array, to_numpy

ReturnType = Union[Literal["logits", "loss", "both"], None]
"""What a pass returns, as in TransformerLens."""


class Output(NamedTuple):
    """Of ``return_type="both"``."""

    logits: Array
    """``[batch, seq, d_vocab]``"""
    loss: Any
    """As :func:`next_token_loss` gives it."""


def next_token_loss(logits: Array, tokens: Any, per_token: bool = False) -> Any:
    """Minus the log probability of each next token, ``[batch, seq - 1]``, or its mean: a number with the
    type of ``logits``, ``[batch, seq, d_vocab]``, whose autograd it is part of where they are torch's.

    ``tokens``: ids ``[batch, seq]``; a prefix that the logits do not cover may be in front. Raises
    ValueError for logits of one position, which have no next token.
    """
    ids = np.atleast_2d(to_numpy(tokens)).astype(np.int64)[:, -logits.shape[1] :][:, 1:]
    if ids.shape[1] == 0:
        raise ValueError("the loss is of next tokens: prompts need two of them (behind a cached prefix)")
    if hasattr(logits, "log_softmax"):
        import torch

        chosen = logits.log_softmax(-1)[:, :-1].gather(-1, torch.as_tensor(ids)[..., None])[..., 0]
    else:
        shifted = logits[:, :-1] - logits[:, :-1].max(-1, keepdims=True)
        picked = np.take_along_axis(shifted, ids[..., None], -1)[..., 0]
        chosen = picked - np.log(np.exp(shifted).sum(-1))
    return -chosen if per_token else -chosen.mean()
