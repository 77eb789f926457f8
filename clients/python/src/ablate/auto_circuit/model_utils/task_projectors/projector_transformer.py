# SPDX-License-Identifier: Apache-2.0
"""Not here: the daemon runs no modules of its callers."""

from ..._missing import missing_from

__getattr__ = missing_from(__name__)
