# SPDX-License-Identifier: Apache-2.0
"""The vocabularies of AutoCircuit's Tracr tasks; compiling is tracr's."""

from __future__ import annotations

from typing import Literal

from .._missing import missing_from

BOS = "BOS"
REVERSE_VOCAB = {1, 2, 3}
XPROPORTION_VOCAB = {"w", "x", "y", "z"}
MAX_SEQ_LEN = 5
TRACR_TASK_KEY = Literal["reverse", "xproportion"]

__getattr__ = missing_from(__name__)
