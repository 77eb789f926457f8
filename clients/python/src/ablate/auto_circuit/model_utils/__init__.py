# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.model_utils``: mostly modules, which are on the daemon here."""
