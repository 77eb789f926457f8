# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's task projectors, which are not here."""
