# SPDX-License-Identifier: Apache-2.0
"""Circuits that were compiled."""
