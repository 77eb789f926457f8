# SPDX-License-Identifier: Apache-2.0
"""What the metrics of circuits' outputs share."""

from __future__ import annotations

from typing import Any, Callable, Dict, Literal

import numpy as np

from ...._arrays import to_numpy
from ...utils.tensor_ops import log_softmax

ProbFunc = Literal["log_softmax", "softmax", "logits"]

_FUNCTIONS: Dict[str, Callable[[Any], np.ndarray]] = {
    "logits": to_numpy,
    "log_softmax": log_softmax,
    "softmax": lambda logits: np.exp(log_softmax(logits)),
}


def function(prob_func: ProbFunc) -> Callable[[Any], np.ndarray]:
    """Logits to what is measured. ValueError for another name."""
    if prob_func not in _FUNCTIONS:
        raise ValueError(f"prob_func must be one of {', '.join(_FUNCTIONS)}, not {prob_func!r}")
    return _FUNCTIONS[prob_func]


def plain_logits(model: Any, prompts: Any) -> np.ndarray:
    """The whole model's logits at the output slice."""
    return to_numpy(model(prompts)[model.out_slice])
