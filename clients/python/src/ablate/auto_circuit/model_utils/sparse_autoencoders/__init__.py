# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's sparse autoencoders, which are not here."""
