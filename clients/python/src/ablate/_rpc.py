# SPDX-License-Identifier: Apache-2.0
"""The channel: one callable a method, made from the protos' own service descriptors.

No generated stubs: those insist on a grpcio as new as the tool that made them, and all they do is
what :class:`Channel` does in a few lines. Errors leave here as :class:`ablate.AblateError`.
"""

from __future__ import annotations

import getpass
import os
import socket
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, TypeVar

import grpc
from google.protobuf import message_factory

from ._version import VERSION
from .errors import AblateError, CancelledError, UnavailableError, from_rpc_error
from .v1 import admin_pb2, cache_pb2, dataset_pb2, evaluate_pb2, graph_pb2, mask_pb2, model_pb2, prune_pb2, run_pb2

_FILES = (admin_pb2, cache_pb2, dataset_pb2, evaluate_pb2, graph_pb2, mask_pb2, model_pb2, prune_pb2, run_pb2)
Result = TypeVar("Result")


def _owner() -> str:
    """Who we are in the lists of a daemon that several people share: ``$ABLATE_USER``, or "ada@lab"."""
    try:
        name = os.environ.get("ABLATE_USER") or f"{getpass.getuser()[:31]}@{socket.gethostname()}"
    except (KeyError, OSError):  # a user that the system does not know
        name = f"somebody@{socket.gethostname()}"
    return "".join(letter if " " <= letter <= "~" else "?" for letter in name)[:64]


_METADATA = (("ablate-client-version", f"python/{VERSION}"), ("ablate-user", _owner()))
_OPTIONS = [
    # Requests are limited by the daemon, responses are chunks; this only has to exceed both.
    ("grpc.max_receive_message_length", 64 << 20),
    # One connection a client: the daemon shares its time out among connections.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.primary_user_agent", f"ablate-python/{VERSION}"),
    # A daemon that is back is found soon, by whoever goes on with a job.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A peer that vanished without a word is noticed within 40 s.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
]


def call_error(error: grpc.RpcError, target: str) -> AblateError:
    """The :class:`AblateError` of a failed call; what gRPC says of a lost connection, in our words."""
    made = from_rpc_error(error)
    if isinstance(made, UnavailableError) and not made.reason:
        made = UnavailableError(
            f"the daemon at {target} does not answer, or the connection to it was lost ({made.message}); "
            "see whether `ablated` runs there, then connect again",
            "UNREACHABLE",
            {"grpc": made.message},
        )
    return made


class Calls:
    """The calls of one piece of work, which another thread may end: those under way, or, between two
    calls, the next. What the work then does to clean up goes through.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Any] = []
        self._cancel_next = False

    def during(self, work: Callable[[], Result]) -> Result:
        """Does the work, whose calls in this thread are then these."""
        token = _CALLS.set(self)
        try:
            return work()
        finally:
            _CALLS.reset(token)

    def add(self, call: Any) -> None:
        """A call has begun."""
        with self._lock:
            self._calls = [other for other in self._calls if not other.done()] + [call]
            if self._cancel_next:
                self._cancel_next = not call.cancel()

    def cancel(self) -> None:
        """Ends them; may be called from any thread."""
        with self._lock:
            self._cancel_next = not any([call.cancel() for call in self._calls if not call.done()])


_CALLS: ContextVar[Calls | None] = ContextVar("ablate calls", default=None)


class Stream:
    """A server stream: an iterator of messages that can be cancelled. Any error of the call is an
    :class:`AblateError`; an interrupt while waiting leaves the call open.
    """

    def __init__(self, call: Any, target: str):
        self._call = call
        self._target = target

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise call_error(error, self._target) from None

    def cancel(self) -> None:
        """Ends the call; the daemon notices."""
        self._call.cancel()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


@dataclass(frozen=True)
class Tls:
    """The PEM files of a connection to an ``https://`` address; None: gRPC's authorities, no certificate."""

    ca: str | os.PathLike[str] | None = None
    client_cert: str | os.PathLike[str] | None = None
    client_key: str | os.PathLike[str] | None = None


def open_channel(host: str, tls: Tls) -> Any:
    """gRPC's channel to ``"host:port"``, or ``"https://host:port"`` for TLS."""
    scheme, separator, rest = host.partition("://")
    if not separator or scheme not in ("http", "https"):
        return grpc.insecure_channel(host, options=_OPTIONS)
    target = rest.split("/")[0]
    if scheme == "http":
        return grpc.insecure_channel(target, options=_OPTIONS)
    if (tls.client_cert is None) != (tls.client_key is None):
        raise ValueError("client_cert and client_key go together")
    authorities, certificate, key = (_pem(path) for path in (tls.ca, tls.client_cert, tls.client_key))
    credentials = grpc.ssl_channel_credentials(authorities, key, certificate)
    return grpc.secure_channel(target, credentials, options=_OPTIONS)


def _pem(path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    data = Path(path).expanduser().read_bytes()
    if b"-----BEGIN" not in data:
        raise ValueError(f"there is nothing in PEM in {os.fspath(path)!r}")
    return data


class Channel:
    """A connection to a daemon. Any thread may use it."""

    def __init__(self, target: str, tls: Tls = Tls()):
        self.target = target
        self._channel = open_channel(target, tls)
        self._methods: dict[str, tuple[Any, bool]] = {}
        for file in _FILES:
            for service in file.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    self._methods[method.name] = self._bind(service.full_name, method)

    def _bind(self, service: str, method: Any) -> tuple[Any, bool]:
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
        begin, streams = self._methods[method]
        calls = _CALLS.get()
        try:
            if calls is None and not streams:
                return begin(request, timeout=timeout, metadata=_METADATA)
            call = (begin if streams else begin.future)(request, timeout=timeout, metadata=_METADATA)
            if calls is not None:
                calls.add(call)
            return Stream(call, self.target) if streams else call.result()
        except grpc.RpcError as error:
            raise call_error(error, self.target) from None
        except grpc.FutureCancelledError:
            raise CancelledError("the call was cancelled here") from None

    def pages(self, method: str, request: Any, field: str) -> Iterable[Any]:
        """All items of a listing, page after page."""
        while True:
            response = self.call(method, request)
            yield from getattr(response, field)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def close(self) -> None:
        """Ends the connection and its open calls."""
        self._channel.close()


__all__ = ["AblateError", "Channel", "Stream", "call_error"]
