# SPDX-License-Identifier: Apache-2.0
"""Not here: the circuit of a compiled model of AutoCircuit's own tasks."""

from ....._missing import missing_from

__getattr__ = missing_from(__name__)
