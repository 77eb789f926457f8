# SPDX-License-Identifier: Apache-2.0
"""The channel: one callable a method, made from the protos' own service descriptors.

No generated stubs: those insist on a grpcio as new as the tool that made them, and all they do is
what :class:`Channel` does in a few lines. Errors leave here as :class:`ablate.AblateError`.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator

import grpc
from google.protobuf import message_factory

from ._version import VERSION
from .errors import AblateError, from_rpc_error
from .v1 import admin_pb2, cache_pb2, dataset_pb2, evaluate_pb2, graph_pb2, mask_pb2, model_pb2, prune_pb2, run_pb2

_FILES = (admin_pb2, cache_pb2, dataset_pb2, evaluate_pb2, graph_pb2, mask_pb2, model_pb2, prune_pb2, run_pb2)
_METADATA = (("ablate-client-version", f"python/{VERSION}"),)
_OPTIONS = [
    # Requests are limited by the daemon, responses are chunks; this only has to exceed both.
    ("grpc.max_receive_message_length", 64 << 20),
    # One connection a client: the daemon shares its time out among connections.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.primary_user_agent", f"ablate-python/{VERSION}"),
]


class Stream:
    """A server stream: an iterator of messages that can be cancelled. Any error of the call is an
    :class:`AblateError`; an interrupt while waiting leaves the call open.
    """

    def __init__(self, call: Any):
        self._call = call

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    def cancel(self) -> None:
        """Ends the call; the daemon notices."""
        self._call.cancel()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class Channel:
    """A connection to a daemon. Any thread may use it."""

    def __init__(self, target: str, open_channel: Callable[..., Any] = grpc.insecure_channel):
        self.target = target
        self._channel = open_channel(target, options=_OPTIONS)
        self._methods: dict[str, tuple[Callable[..., Any], bool]] = {}
        for file in _FILES:
            for service in file.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    self._methods[method.name] = self._bind(service.full_name, method)

    def _bind(self, service: str, method: Any) -> tuple[Callable[..., Any], bool]:
        kind = ("stream" if method.client_streaming else "unary") + "_"
        kind += "stream" if method.server_streaming else "unary"
        call = getattr(self._channel, kind)(
            f"/{service}/{method.name}",
            request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        return call, method.server_streaming

    def call(self, method: str, request: Any, timeout: float | None = None) -> Any:
        """Calls a method; a server stream returns a :class:`Stream`, else the response."""
        try:
            result = self.start(method, request, timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        return Stream(result) if self._methods[method][1] else result

    def start(self, method: str, request: Any, timeout: float | None = None) -> Any:
        """gRPC's own answer: a response or an iterator, with an asynchronous channel a call to await."""
        return self._methods[method][0](request, timeout=timeout, metadata=_METADATA)

    def pages(self, method: str, request: Any, field: str) -> Iterable[Any]:
        """All items of a listing, page after page."""
        while True:
            response = self.call(method, request)
            yield from getattr(response, field)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def close(self) -> Any:
        """Ends the connection and its open calls."""
        return self._channel.close()


__all__ = ["AblateError", "Channel", "Stream", "from_rpc_error"]
