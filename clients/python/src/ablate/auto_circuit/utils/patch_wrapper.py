# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's wrapper of modules, which are on the daemon."""

from .._missing import missing_from

__getattr__ = missing_from(__name__)
