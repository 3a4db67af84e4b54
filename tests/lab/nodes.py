"""Whole nodes in laboratory hosts, for the tests in test_node_*.py: started, joined, measured, ended.

The nodes are the real program (`python -m node`) with real TUN devices. The tests ask them through their
control sockets, which are files, so that the other network namespace is no obstacle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pytest
import trio

from node import control
from node.errors import NotRunning, UserError
from simulations.lab import reaper, userns
from simulations.lab.lab import Host
from simulations.lab.namespaces import Namespace
from tests.rights import NOBODY, maps_uid

T = TypeVar("T")
Sections = Mapping[str, Mapping[str, object]]
COMMAND = (sys.executable, "-m", "node")
START_SECONDS = 20.0
_NO_TUN = userns.available()
needs_tun = pytest.mark.skipif(_NO_TUN is not None, reason=_NO_TUN or "")


def eventually(check: Callable[[], T], seconds: float, what: str) -> T:
    """The first true answer of `check`, asked again until then; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds:g} s still not: {what}")
        time.sleep(0.02)
    return answer


class Node:
    """A node in a host: its configuration, its state directory, and its process while it runs.

    sections: of the configuration, as {"interface": {"mtu": 1280}, "peers.home": {…}}. command: what stands
    for `zeqnode`. seen: the state directory as this process reaches it, where that is another path.
    """

    def __init__(
        self,
        host: Host,
        folder: Path,
        sections: Sections | None = None,
        *,
        state: Path | None = None,
        seen: Path | None = None,
        command: Sequence[str] = COMMAND,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.host = host
        self.state = state or folder / host.name
        self.config = folder / f"{host.name}.toml"
        self.log = folder / f"{host.name}.log"
        self._seen = seen or self.state
        self._command = tuple(command)
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(sections or {})

    def configure(self, sections: Sections) -> None:
        """Write the configuration anew; a running node takes it up on SIGHUP."""
        # The API takes most of a second to load, and the tests that want it say so.
        whole: dict[str, Mapping[str, object]] = {"api": {"enabled": False}, **sections}
        whole["node"] = {"name": self.host.name, "state": str(self.state), **whole.get("node", {})}
        tables = (
            "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())])
            for name, values in whole.items()
        )
        self.config.write_text("\n\n".join(tables) + "\n")

    # ------------------------------------------------------------------ its process

    def launch(self, *options: str) -> None:
        """Start it and do not wait."""
        argv = [*self._command, "run", *options, "--config", str(self.config)]
        self._process = self.host.popen(argv, log=self.log, env=self._environment())

    def start(self, *options: str) -> Node:
        """Start it, and wait until it answers."""
        self.launch(*options)
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        eventually(self._answers, START_SECONDS, f"{self.host.name} runs; its log: {self.said()}")

    def command(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`zeqnode WORDS` for this node, to its end; `variables` go into its environment."""
        argv = [*self._command, *words, "--config", str(self.config)]
        return self.host.run(argv, check=False, env=self._environment() | variables)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, timeout: float = 5.0) -> float:
        """SIGTERM; gives the seconds until it was gone, and expects exit code 0."""
        started = time.monotonic()
        self.process.terminate()
        code = self.process.wait(timeout)
        assert code == 0, self.said()
        return time.monotonic() - started

    def __enter__(self) -> Node:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Whatever the test found, it does not run on; and if all was well, its end is too."""
        if kind is None:
            self.stop()
        elif self._process is not None:
            self.kill()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # ------------------------------------------------------------------ what it answers

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Raises UserError as `node.control.call`."""
        path = self._seen / control.SOCKET_NAME
        return trio.run(partial(control.call, path, op, timeout=60.0, **arguments))

    def status(self) -> dict[str, Any]:
        return self.call("status")

    def peer(self, name: str) -> dict[str, Any]:
        """The peer's line of the status."""
        found: list[dict[str, Any]] = [row for row in self.status()["peers"] if row["name"] == name]
        assert found, f"{self.host.name} has no peer {name}"
        return found[0]

    def peers(self) -> list[str]:
        return [row["name"] for row in self.status()["peers"]]

    def counter(self, name: str) -> int:
        """One of the core's counters; 0 while it never counted."""
        return int(self.status()["counters"].get(name, 0))

    def address(self, family: int, of: str) -> str:
        """The mesh address under which this node's host reaches the peer `of`."""
        return str(self.peer(of)[f"address{family}"])

    def wait_connected(self, peer: str, seconds: float = 10.0) -> None:
        eventually(lambda: self.peer(peer)["state"] == "connected", seconds, f"connected to {peer}")

    def wait_payload(self, peer: str, payload: int, seconds: float = 5.0) -> None:
        """Until it sends datagrams of that many bytes of UDP payload to the peer."""
        eventually(lambda: self.peer(peer)["payload"] == payload, seconds, f"payload {payload} to {peer}")

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"the node of {self.host.name} ended with {self.process.returncode}: {self.said()}")
        try:
            self.status()
        except NotRunning:
            return False
        return True

    def _environment(self) -> dict[str, str]:
        variables = ("ZEQ_FIELD_KEY", "ZEQ_PASSPHRASE", "ZEQ_MESH_SECRET", "NOTIFY_SOCKET", "JOURNAL_STREAM")
        kept = {key: value for key, value in reaper.python_environment().items() if key not in variables}
        return kept | self._env


def join(inviter: Node, joiner: Node, name: str = "") -> str:
    """The whole way in; gives the invitation, which is used now. Both show each other as connected.

    name: what the inviter calls the joiner, in place of the joiner's own."""
    text: str = inviter.call("invite", name=name)["invitation"]
    joiner.call("join", invitation=text)
    inviter.wait_connected(name or joiner.host.name)
    joiner.wait_connected(inviter.host.name)
    return text


def pair(home: Node, cafe: Node) -> tuple[Node, Node]:
    """Both started, cafe joined to home."""
    for node in (home, cafe):
        node.launch()
    for node in (home, cafe):
        node.wait_ready()
    join(home, cafe)
    return home, cafe


def refusal(action: Callable[[], object]) -> UserError:
    """The error that a call to a node ends with."""
    with pytest.raises(UserError) as caught:
        action()
    return caught.value


# ---------------------------------------------------------------------- traffic


def ping(
    host: Namespace, address: str, *options: str, size: int = 56, count: int = 1, wait: float = 5.0
) -> subprocess.CompletedProcess[str]:
    """size: bytes of ICMP payload, 28 (IPv4) or 48 (IPv6) less than the packet. wait: s, for each answer."""
    words = ["ping", "-n", "-s", str(size), "-c", str(count), "-i", "0.05", "-W", f"{wait:g}"]
    return host.run([*words, *options, address], check=False)


def reaches(host: Namespace, address: str, *options: str, size: int = 56, wait: float = 5.0) -> bool:
    """Whether one ping is answered; size as in `ping`."""
    return ping(host, address, *options, size=size, wait=wait).returncode == 0


class Transfer:
    """Random bytes over TCP from one host to an address of another, checked by their SHA-256 at its end.

    Runs beside the test between `with` and `finish`. `received` counts bytes; `longest_gap` is the longest
    time in seconds between two arrivals.
    """

    def __init__(self, source: Namespace, target: Namespace, address: str, size: int) -> None:
        self.size = size
        self.received = 0
        self.longest_gap = 0.0
        self._data = random.Random(size).randbytes(size)
        self._hash = hashlib.sha256()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = target.call(lambda: socket.socket(family, socket.SOCK_STREAM))
        self._sender = source.call(lambda: socket.socket(family, socket.SOCK_STREAM))
        self._receiver: socket.socket | None = None
        self._listener.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))
        self._listener.listen(1)
        self._where = (address, self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def __enter__(self) -> Transfer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._sender, self._listener, self._receiver):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in it
                each.close()
        for thread in self._threads:
            thread.join()

    def wait_received(self, size: int, seconds: float = 20.0) -> None:
        eventually(lambda: self.received >= size, seconds, f"{size} bytes have come, {self.received} did")

    def finish(self, seconds: float = 30.0) -> None:
        """Wait for the last byte, and check them all."""
        self.wait_received(self.size, seconds)
        self._threads[1].join()
        assert self._hash.digest() == hashlib.sha256(self._data).digest()

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # ended from outside: `finish` says what is missing
            self._sender.connect(self._where)
            self._sender.sendall(self._data)
            self._sender.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            self._receiver, _ = self._listener.accept()
            last = time.monotonic()
            while data := self._receiver.recv(1 << 16):
                now = time.monotonic()
                self.longest_gap, last = max(self.longest_gap, now - last), now
                self._hash.update(data)
                self.received += len(data)


def transfer(source: Node, target: Node, family: int, size: int, seconds: float = 30.0) -> None:
    """`size` bytes from one node's host to the other's, through the tunnel; family: 4 or 6, inside."""
    with Transfer(source.host, target.host, source.address(family, of=target.host.name), size) as running:
        running.finish(seconds)


# ---------------------------------------------------------------------- places


_AS_NOBODY = """
set -e
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/python /mnt/packages /mnt/repository
mount --bind "$1" /mnt/python
mount --bind "$2" /mnt/packages
mount --bind "$3" /mnt/repository
mknod -m 666 /mnt/tun c 10 200
mount --bind /mnt/tun /dev/net/tun
caps="-all$4"
program="/mnt/python/$5"
shift 5
export PYTHONPATH=/mnt/repository:/mnt/packages LD_LIBRARY_PATH=/mnt/python/lib
cd /
exec setpriv --reuid 65534 --regid 65534 --clear-groups \\
    --inh-caps "$caps" --ambient-caps "$caps" --bounding-set "$caps" -- "$program" -m node "$@"
"""


def as_nobody(capability: str = "") -> tuple[str, ...]:
    """`zeqnode` as an ordinary user with this capability ("net_admin") and no other, for `Node(command=)`.

    This Python may lie in root's home, and /dev/net/tun be root's: the user gets mounts of them. Skips the
    test where that cannot be."""
    if not maps_uid(NOBODY):
        pytest.skip("a user namespace with one user has no ordinary users")
    folders = (sys.base_prefix, sysconfig.get_path("purelib"), str(Path(__file__).parents[2]))
    for folder in folders:
        if os.stat(folder).st_mode & 0o5 != 0o5:
            pytest.skip(f"{folder} is closed to ordinary users")
    program = Path(os.path.realpath(sys.executable)).relative_to(os.path.realpath(sys.base_prefix))
    capabilities = f",+{capability}" if capability else ""
    return ("unshare", "--mount", "sh", "-c", _AS_NOBODY, "sh", *folders, capabilities, str(program))


class SmallDisk:
    """A tmpfs of `size` ("2m"), in a mount namespace of its own, between `with` and the end of its block.

    path: where it is inside; command: `zeqnode` inside; seen: where it is for everybody else."""

    def __init__(self, size: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="zeqnode-disk-"))
        mount = f"mount -t tmpfs -o size={size},mode=700 tmpfs {self.path} && echo ready && exec cat"
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", mount], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.command = ("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--", *COMMAND)
        self.seen = Path(f"/proc/{self._holder.pid}/root{self.path}")

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._holder:  # closes its input, which ends it, and waits
            self._holder.terminate()
        self.path.rmdir()

    def fill(self) -> None:
        """Take all the space that is left."""
        left = os.statvfs(self.seen)
        with (self.seen / "ballast").open("ab", buffering=0) as file:
            if left.f_bavail:
                os.posix_fallocate(file.fileno(), file.tell(), left.f_bavail * left.f_bsize)

    def free(self) -> None:
        """Give it back."""
        (self.seen / "ballast").unlink()
