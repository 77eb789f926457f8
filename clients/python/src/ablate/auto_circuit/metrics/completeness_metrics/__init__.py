# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's measures of completeness."""
