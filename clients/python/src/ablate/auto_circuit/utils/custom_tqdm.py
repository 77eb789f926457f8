# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.utils.custom_tqdm``."""

from functools import partial

from tqdm.auto import tqdm as _tqdm

tqdm = partial(_tqdm, dynamic_ncols=True, bar_format="{desc}{bar}{r_bar}", leave=None, delay=0)
