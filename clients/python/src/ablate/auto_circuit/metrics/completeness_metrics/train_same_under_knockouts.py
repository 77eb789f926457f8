# SPDX-License-Identifier: Apache-2.0
"""Not here: knockouts are trained elsewhere."""

from ..._missing import missing_from

__getattr__ = missing_from(__name__)
