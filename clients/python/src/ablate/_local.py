# SPDX-License-Identifier: Apache-2.0
"""A private daemon for a notebook on a machine without one. It ends with its client, at the latest
with this process, however that ends: a shell between the two waits for the end of a pipe that only
we hold open.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Mapping, Sequence

from ._arrays import Backend
from ._client import Client
from ._rpc import Tls
from .errors import DeadlineExceededError, UnavailableError

# Runs "$0" "$@" until it ends or standard input does, which is when its holder is gone.
_UNTIL_STDIN_ENDS = """
exec 3<&0
"$0" "$@" 3<&- & daemon=$!
{ read -r _ <&3; kill "$daemon"; } 2>/dev/null & watch=$!
exec 3<&-
wait "$daemon"; code=$?
kill "$watch" 2>/dev/null
exit "$code"
"""


def local(
    *flags: str,
    model_roots: Sequence[str | os.PathLike[str]] = (".",),
    daemon: str | os.PathLike[str] | None = None,
    arrays: Backend = "auto",
    timeout: float = 60.0,
    tls_ca: str | os.PathLike[str] | None = None,
    client_cert: str | os.PathLike[str] | None = None,
    client_key: str | os.PathLike[str] | None = None,
    **options: Any,
) -> "LocalClient":
    """Starts a private daemon on free ports of this machine and connects to it.

        >>> client = ablate.local()                       # ends with the kernel, or by client.close()
        >>> model = client.load_model("models/smollm2-135m")
        >>> with ablate.local(threads=2, kv_cache_mib=256) as client: ...

    ``options``: any of ``ablated --help``, its name with underscores: a text, a number, a path, True for
    a switch (False and None leave it out), a list for one that may be repeated; ``flags`` are the same
    as words, ``"--threads", "2"``. ``model_roots``: folders whose models it may load; models of the
    Hugging Face cache it finds by itself. ``daemon``: the binary; None: ``$ABLATE_DAEMON``, else the
    build folder of the source tree that this package or the current folder is in, else ``PATH``.

    With ``tls_cert`` and ``tls_key`` it speaks TLS, and ``tls_ca``, ``client_cert`` and ``client_key`` are as
    for :func:`ablate.connect`; ``tls_ca`` None trusts the very ``tls_cert``. The certificate must be for
    127.0.0.1.

    Raises :class:`ablate.UnavailableError` (``DAEMON_MISSING``, with the places that were looked at;
    ``DAEMON_ENDED``, with its last words, as for options that it does not know) and
    :class:`ablate.DeadlineExceededError` if it is not ready within ``timeout`` seconds.
    """
    words = [*flags, *_words(options)]
    tls = Tls(tls_ca or _last(words, "--tls-cert"), client_cert, client_key)
    return LocalClient(find_daemon(daemon), words, model_roots, arrays, timeout, tls)


def _words(options: Mapping[str, Any]) -> list[str]:
    """``{"threads": 2, "insecure_bind_any": True}`` -> ``["--threads", "2", "--insecure-bind-any"]``."""
    words: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            for one in value if isinstance(value, (list, tuple)) else [value]:
                words += [flag, os.fspath(one) if isinstance(one, os.PathLike) else str(one)]
    return words


def _last(words: Sequence[str], flag: str) -> str | None:
    """The value that a flag has at last, if any."""
    value = None
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            value = words[i + 1]
        elif word.startswith(flag + "="):
            value = word[len(flag) + 1 :]
    return value


def find_daemon(daemon: str | os.PathLike[str] | None = None) -> str:
    """The path of ``ablated``. Raises :class:`ablate.UnavailableError` (``DAEMON_MISSING``)."""
    named = daemon or os.environ.get("ABLATE_DAEMON")
    if named:
        if found := shutil.which(named):
            return found
        raise UnavailableError(f"there is no program at {os.fspath(named)!r}", "DAEMON_MISSING")
    here = Path(__file__).resolve()
    trees = [folder for start in (here, Path.cwd() / "_") for folder in start.parents]
    for tree in trees:
        for preset in ("release", "dev"):
            candidate = tree / "build" / preset / "bin" / "ablated"
            if (tree / "proto" / "ablate").is_dir() and os.access(candidate, os.X_OK):
                return str(candidate)
    if found := shutil.which("ablated"):
        return found
    raise UnavailableError(
        "there is no `ablated` in $ABLATE_DAEMON, in a build folder of the source tree or on PATH; build it "
        "with `make` in Ablate's source tree, or set ABLATE_DAEMON",
        "DAEMON_MISSING",
    )


class LocalClient(Client):
    """A client whose daemon is its own, from :func:`ablate.local`: closing it stops the daemon."""

    def __init__(
        self,
        binary: str,
        flags: Sequence[str],
        model_roots: Sequence[str | os.PathLike[str]],
        arrays: Backend,
        timeout: float,
        tls: Tls,
    ):
        self._folder = tempfile.TemporaryDirectory(prefix="ablate-local-")
        here = Path(self._folder.name)
        self.log_path = here / "log"
        """What the daemon writes."""
        command = [binary, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        command += ["--ready-file", str(here / "ready.json"), "--state-dir", str(here / "state")]
        for root in model_roots:
            command += ["--model-root", os.path.abspath(root)]
        with self.log_path.open("wb") as log:
            # A session of its own: an interrupt of the kernel is not one of the daemon.
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _UNTIL_STDIN_ENDS, *command, *flags],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        atexit.register(self._stop)
        try:
            ready = self._wait(here / "ready.json", timeout)
            self.pid: int = ready["pid"]
            """The daemon's process."""
            scheme = "http" if tls.ca is None else "https"
            self.dashboard: str = f"{scheme}://{ready['http']}"
            """Where its dashboard is."""
            host = ready["grpc"] if tls.ca is None else f"https://{ready['grpc']}"
            super().__init__(host, arrays=arrays, timeout=timeout, tls=tls)
        except BaseException:
            self._stop()
            raise

    def _wait(self, ready: Path, timeout: float) -> Any:
        end = time.monotonic() + timeout
        while not ready.exists():
            if self._process.poll() is not None:
                raise UnavailableError(
                    f"the daemon ended with {self._process.returncode}: {self.log()[-500:].strip()}",
                    "DAEMON_ENDED",
                )
            if time.monotonic() > end:
                raise DeadlineExceededError(f"the daemon was not ready after {timeout:g} s: {self.log()[-500:]}")
            time.sleep(0.02)
        return json.loads(ready.read_text())

    def log(self) -> str:
        """What the daemon wrote so far."""
        return self.log_path.read_text(errors="replace")

    def close(self) -> None:
        """Ends the connection and the daemon, with all that is resident there."""
        super().close()
        self._stop()

    def _stop(self) -> None:
        atexit.unregister(self._stop)
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        self._folder.cleanup()

    def __repr__(self) -> str:
        return f"<ablate.LocalClient of a daemon of its own at {self.host}, process {self.pid}>"
