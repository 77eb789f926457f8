# SPDX-License-Identifier: Apache-2.0
"""Data files: tensor hashes of the models that ablate.models can fetch."""
