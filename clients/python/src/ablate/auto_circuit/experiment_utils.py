# SPDX-License-Identifier: Apache-2.0
"""Of AutoCircuit's ``auto_circuit.experiment_utils`` what its documentation's scripts use."""

from __future__ import annotations

from typing import Any

from .._model import Model
from ._missing import missing_from
from ._session import client


def load_tl_model(name: str, device: Any) -> Model:
    """A model by name on the daemon of :func:`ablate.auto_circuit.client`, with AutoCircuit's weight
    processing; one that is resident already is returned at once. ``device``: where AutoCircuit would
    have it; the daemon has its own.

    Raises what :meth:`ablate.Client.load_model` raises.
    """
    return client().load_model(name, "tl")


__getattr__ = missing_from(__name__)
