# SPDX-License-Identifier: Apache-2.0
"""Names of the protocol's enumerations as Python callers write them: lower case, without prefix."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from .v1 import common_pb2

Enum = TypeVar("Enum", bound=int)


def enum_value(enum: type[Enum], prefix: str, name: str | None) -> Enum:
    """The number of ``prefix + NAME``; None gives 0. ValueError lists the choices."""
    if name is None:
        return cast(Enum, 0)
    # At run time generated enumerations are no types but wrappers, whose values are plain numbers.
    values: dict[str, Enum] = dict(cast(Any, enum).items())
    full = prefix + name.upper()
    if full not in values or name.upper() == "UNSPECIFIED":
        choices = [key.removeprefix(prefix).lower() for key in values][1:]
        raise ValueError(f"{name!r} is not one of: {', '.join(choices)}")
    return values[full]


def ablation_value(ablation: Any) -> common_pb2.AblationType:
    """The protocol's number for an ablation type; 0 for a resident ablation, which goes by its handle."""
    name = ablation if isinstance(ablation, str) else None
    return enum_value(common_pb2.AblationType, "ABLATION_TYPE_", name)
