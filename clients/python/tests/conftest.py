# SPDX-License-Identifier: Apache-2.0
"""A daemon made of Python, for the client's own logic: what it does with a stream that breaks, an
interrupt, an error with details. The real daemon is driven by tests/e2e.
"""

from __future__ import annotations

from concurrent import futures
from typing import Any, Callable

import grpc
import pytest
from google.protobuf import message_factory

import ablate
from ablate import _rpc
from ablate.v1 import admin_pb2


class FakeDaemon:
    """Methods are set by name: ``daemon.on("GetJob", lambda request, context: ...)``."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[Any, Any], Any]] = {}
        self.requests: list[tuple[str, Any]] = []
        self.metadata: dict[str, str] = {}
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        for file in _rpc._FILES:
            for service in file.DESCRIPTOR.services_by_name.values():
                handlers = {m.name: self._handler(m) for m in service.methods}
                generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
                self.server.add_generic_rpc_handlers((generic,))
        self.on(
            "GetServerInfo",
            lambda request, context: admin_pb2.GetServerInfoResponse(
                version="0.1.0", protocol="ablate.v1"
            ),
        )
        self.server.start()

    def on(self, method: str, handler: Callable[[Any, Any], Any]) -> None:
        self.handlers[method] = handler

    def _handler(self, method: Any) -> grpc.RpcMethodHandler:
        def run(request: Any, context: Any) -> Any:
            if method.client_streaming:
                request = list(request)
            self.requests.append((method.name, request))
            self.metadata = dict(context.invocation_metadata())
            return self.handlers[method.name](request, context)

        kind = ("stream" if method.client_streaming else "unary") + "_"
        kind += "stream" if method.server_streaming else "unary"
        return getattr(grpc, f"{kind}_rpc_method_handler")(
            run,
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=message_factory.GetMessageClass(method.output_type).SerializeToString,
        )


@pytest.fixture
def daemon():
    fake = FakeDaemon()
    yield fake
    fake.server.stop(None)


@pytest.fixture
def client(daemon):
    with ablate.connect(f"127.0.0.1:{daemon.port}", arrays="numpy") as connection:
        yield connection
