"""What the tests of the laboratory share: whether it can be made here, and UDP in another namespace."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from simulations.lab import userns
from simulations.lab.namespaces import Namespace

SO_RCVBUFFORCE = 33
UdpSocket = Callable[..., socket.socket]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = userns.available(tun=False)
    if reason is None and not userns.privileged():
        reason = "run as root, or by `make test`, or as `python -m simulations.lab pytest tests/lab`"
    for item in items:
        if reason and item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def udp() -> Iterator[UdpSocket]:
    """udp(host, address, port=0): a UDP socket in that namespace, with room for all that a test sends."""
    opened: list[socket.socket] = []

    def make(host: Namespace, address: str, port: int = 0) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = host.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
        opened.append(sock)
        with contextlib.suppress(PermissionError):  # in a user namespace it must do with the usual buffer
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        sock.settimeout(10)
        sock.bind((address, port))
        return sock

    yield make
    for sock in opened:
        sock.close()
