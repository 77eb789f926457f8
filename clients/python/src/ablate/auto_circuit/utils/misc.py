# SPDX-License-Identifier: Apache-2.0
"""Of AutoCircuit's ``auto_circuit.utils.misc`` what scripts use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn


def repo_path_to_abs_path(path: str) -> Path:
    """A path as it is if absolute, else below the working directory: here there is no repository."""
    return Path.cwd() / path


def module_by_name(model: Any, module_name: str) -> NoReturn:
    """Raises NotImplementedError: modules are on the daemon."""
    raise NotImplementedError(
        f"{module_name!r} is a module on the daemon and cannot be had here; model.wrappers says its shape, "
        "model.patch_masks and model.set_patch_masks are its mask, model.run_with_cache its activations"
    )
