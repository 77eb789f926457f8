# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy in front of the daemon, which loses connections when a test says so."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Passes connections on to `target`, "host:port", which may be changed for those that come later."""

    def __init__(self, target: str):
        self.target = target
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.connection_count = 0
        self._mute: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            host, port = self.target.rsplit(":", 1)
            try:
                far = socket.create_connection((host, int(port)))
            except OSError:
                near.close()
                continue
            self._pairs.append((near, far))
            self.connection_count += 1
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source not in self._mute:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def swallow(self) -> None:
        """Passes nothing on any more through the connections that are open, which stay so: a cable is out."""
        self._mute.update(end for pair in self._pairs for end in pair)

    def cut(self) -> None:
        """Loses the connections that are open; new ones are passed on as before."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
