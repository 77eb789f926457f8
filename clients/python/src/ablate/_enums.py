# SPDX-License-Identifier: Apache-2.0
"""Names of the protocol's enumerations as Python callers write them: lower case, without prefix."""

from __future__ import annotations

from typing import Any

from .v1 import common_pb2


def enum_value(enum: Any, prefix: str, name: str | None) -> int:
    """The number of ``prefix + NAME``; None gives 0. ValueError lists the choices."""
    if name is None:
        return 0
    full = prefix + name.upper()
    if full not in enum.keys() or name.upper() == "UNSPECIFIED":
        choices = [key.removeprefix(prefix).lower() for key in enum.keys()][1:]
        raise ValueError(f"{name!r} is not one of: {', '.join(choices)}")
    return enum.Value(full)


def ablation_value(ablation: Any) -> int:
    """The protocol's number for an ablation type; 0 for a resident ablation, which goes by its handle."""
    name = ablation if isinstance(ablation, str) else None
    return enum_value(common_pb2.AblationType, "ABLATION_TYPE_", name)
