"""TCP that goes on through everything: whenever nothing gets through, the client connects again."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Final

from simulations.lab.namespaces import Namespace
from tests.lab.nodes import eventually

CHUNK: Final = bytes(1 << 18)
PATIENCE: Final = 0.5  # s without progress, before it connects again
AGAIN: Final = 0.05  # s
_RESET: Final = struct.pack("ii", 1, 0)  # close throws away what was not sent


class Flow:
    """Between a client and a port of a server at an IPv6 address, `rate` bytes a second, from `with` to its
    end. `up`: the client sends, else the server does. `received` counts what came."""

    def __init__(
        self, client: Namespace, server: Namespace, where: tuple[str, int], rate: int, *, up: bool
    ) -> None:
        self.received = 0
        self._client, self._where, self._rate, self._up = client, where, rate, up
        self._enough = threading.Event()
        self._listener = server.call(lambda: socket.socket(socket.AF_INET6))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("::", where[1]))
        self._listener.listen(8)
        self._threads = [threading.Thread(target=each) for each in (self._connect, self._accept)]

    def __enter__(self) -> Flow:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def wait_more(self, size: int, seconds: float) -> None:
        """Until so much has come from now on."""
        wanted = self.received + size
        eventually(lambda: self.received >= wanted, seconds, f"{size} more bytes come")

    def _connect(self) -> None:
        while not self._enough.wait(AGAIN):
            with self._client.call(lambda: socket.socket(socket.AF_INET6)) as sock:
                sock.settimeout(PATIENCE)
                with contextlib.suppress(OSError):
                    sock.connect(self._where)
                    self._carry(sock, self._up)

    def _accept(self) -> None:
        """The newest connection: those before it were given up."""
        self._listener.settimeout(AGAIN)
        while not self._enough.is_set():
            newest: socket.socket | None = None
            with contextlib.suppress(TimeoutError):
                while not self._enough.is_set():
                    accepted = self._listener.accept()[0]
                    if newest is not None:
                        newest.close()
                    newest = accepted
            if newest is not None:
                with newest, contextlib.suppress(OSError):
                    newest.settimeout(PATIENCE)
                    self._carry(newest, not self._up)

    def _carry(self, sock: socket.socket, sends: bool) -> None:
        """Until nothing gets through; raises OSError then."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        due = time.monotonic()
        while not self._enough.is_set():
            if sends:
                sock.sendall(CHUNK)
                due = max(due + len(CHUNK) / self._rate, time.monotonic() - 0.1)
                self._enough.wait(max(0.0, due - time.monotonic()))
            elif size := len(sock.recv(1 << 20)):
                self.received += size
            else:
                return
