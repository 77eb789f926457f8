# SPDX-License-Identifier: Apache-2.0
"""Errors: one class for each canonical code, and the daemon's reason and sentence on each.

Programs match on the class and on :attr:`AblateError.reason` (``"MODEL_UNKNOWN"``), never on text.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

__all__ = [
    "AblateError",
    "AbortedError",
    "AlreadyExistsError",
    "CancelledError",
    "DataLossError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnknownError",
    "VersionSkewError",
]


class AblateError(Exception):
    """A call failed. Subclasses stand for the canonical gRPC codes."""

    code: str = "UNKNOWN"
    """The canonical code: ``"NOT_FOUND"``."""

    def __init__(self, message: str, reason: str = "", metadata: dict[str, str] | None = None):
        super().__init__(message)
        self.message = message
        """What was wrong, with what, and what would be right."""
        self.reason = reason
        """What programs match on: ``"MODEL_UNKNOWN"``; empty if the daemon sent none."""
        self.metadata = metadata or {}
        """What else the daemon said about the error."""

    def __str__(self) -> str:
        return f"{self.message} [{self.reason or self.code}]"


class CancelledError(AblateError):
    """The call was cancelled."""

    code = "CANCELLED"


class UnknownError(AblateError):
    """Something outside the protocol went wrong."""

    code = "UNKNOWN"


class InvalidArgumentError(AblateError, ValueError):
    """The request is wrong whatever the state of the daemon."""

    code = "INVALID_ARGUMENT"


class DeadlineExceededError(AblateError):
    """The call took longer than its timeout."""

    code = "DEADLINE_EXCEEDED"


class NotFoundError(AblateError, LookupError):
    """A model, graph, node, hook point, dataset or job is not known."""

    code = "NOT_FOUND"


class AlreadyExistsError(AblateError):
    """The name is taken."""

    code = "ALREADY_EXISTS"


class PermissionDeniedError(AblateError):
    """Not allowed, for instance a path outside the model roots."""

    code = "PERMISSION_DENIED"


class ResourceExhaustedError(AblateError):
    """A limit, the queue, or the device's memory; the message has the numbers."""

    code = "RESOURCE_EXHAUSTED"


class FailedPreconditionError(AblateError):
    """Wrong in the present state, for instance unloading a model that is in use."""

    code = "FAILED_PRECONDITION"


class AbortedError(AblateError):
    """Another request was in the way."""

    code = "ABORTED"


class OutOfRangeError(AblateError):
    """Beyond the end of something."""

    code = "OUT_OF_RANGE"


class UnimplementedError(AblateError, NotImplementedError):
    """The daemon cannot do this, for instance a model family that it does not know."""

    code = "UNIMPLEMENTED"


class InternalError(AblateError):
    """A defect of the daemon."""

    code = "INTERNAL"


class UnavailableError(AblateError):
    """No daemon there, or one that drains."""

    code = "UNAVAILABLE"


class DataLossError(AblateError):
    """Bytes are missing or damaged."""

    code = "DATA_LOSS"


class UnauthenticatedError(AblateError):
    """The daemon wants to know who asks."""

    code = "UNAUTHENTICATED"


class VersionSkewError(AblateError):
    """Client and daemon do not speak the same protocol."""

    code = "FAILED_PRECONDITION"


_BY_CODE: dict[str, type[AblateError]] = {
    cls.code: cls for cls in AblateError.__subclasses__() if cls is not VersionSkewError
}


def _wire_messages() -> tuple[Any, Any]:
    """google.rpc.Status and ErrorInfo, as far as they are read here. They are built in a pool of
    their own, so that they do not collide with googleapis-common-protos, which we do not need.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="ablate_wire.proto", package="ablate.wire", syntax="proto3"
    )
    file.dependency.append("google/protobuf/any.proto")
    field = descriptor_pb2.FieldDescriptorProto
    status = file.message_type.add(name="Status")
    status.field.add(name="code", number=1, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    status.field.add(name="message", number=2, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    status.field.add(
        name="details",
        number=3,
        type=field.TYPE_MESSAGE,
        type_name=".google.protobuf.Any",
        label=field.LABEL_REPEATED,
    )
    info = file.message_type.add(name="ErrorInfo")
    info.field.add(name="reason", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    info.field.add(name="domain", number=2, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry = info.nested_type.add(name="MetadataEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    info.field.add(
        name="metadata",
        number=3,
        type=field.TYPE_MESSAGE,
        type_name=".ablate.wire.ErrorInfo.MetadataEntry",
        label=field.LABEL_REPEATED,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())

    def made(name: str) -> Any:
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ablate.wire.{name}"))

    return made("Status"), made("ErrorInfo")


_Status, _ErrorInfo = _wire_messages()
_DETAILS_KEY = "grpc-status-details-bin"


def from_rpc_error(error: grpc.RpcError) -> AblateError:
    """The :class:`AblateError` for a failed call; codes, reasons and messages are the daemon's."""
    code = error.code().name if hasattr(error, "code") and error.code() is not None else "UNKNOWN"
    message = (error.details() if hasattr(error, "details") else None) or str(error)
    reason, metadata = "", {}
    trailers: Any = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    for key, value in trailers or ():
        if key != _DETAILS_KEY:
            continue
        try:
            for detail in _Status.FromString(value).details:
                if detail.type_url.endswith("/google.rpc.ErrorInfo"):
                    info = _ErrorInfo.FromString(detail.value)
                    reason, metadata = info.reason, dict(info.metadata)
        except Exception:  # a damaged detail must not hide the error that it belongs to
            pass
    return _BY_CODE.get(code, UnknownError)(message, reason, metadata)
