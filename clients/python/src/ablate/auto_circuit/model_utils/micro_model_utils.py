# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's MicroModel, for which :mod:`ablate.micro` is there."""

from .._missing import missing_from

__getattr__ = missing_from(__name__)
