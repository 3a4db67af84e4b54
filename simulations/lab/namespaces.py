"""Network namespaces held by nothing but a file descriptor, and programs started in them.

A namespace is made by a thread that leaves for a new one, opens it and ends; it lives as long as this process
holds the descriptor or a program runs in it. So it has no name, needs no `ip netns`, and vanishes with its
owner. Threads that enter a namespace are thrown away, never pooled: none can come back with the wrong
network.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeVar

from simulations.lab.errors import CommandError, LabError, UnavailableError

T = TypeVar("T")
_SIOCGIFFLAGS, _IFF_RUNNING = 0x8913, 0x40
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
GRACE = 3.0  # s between SIGTERM and SIGKILL; a node stops within one
SBIN = "/usr/sbin:/sbin"  # where ip, tc and nft are, and what an ordinary user's PATH lacks on Debian


class Namespace:
    """marker: environment that every program started here carries, by which leftovers are found."""

    def __init__(self, name: str, marker: Mapping[str, str]) -> None:
        self.name = name
        self._marker = dict(marker)
        self._fd: int | None = None
        self._programs: list[subprocess.Popen[bytes]] = []

    def create(self) -> None:
        """Raises UnavailableError where the kernel or the privileges do not allow it."""

        def make() -> None:
            if _LIBC.unshare(_CLONE_NEWNET):
                raise UnavailableError(
                    f"The kernel refused a network namespace ({os.strerror(ctypes.get_errno())}): "
                    "run this as root, or through `zeqnode lab run`, which makes a user namespace first."
                )
            self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        _in_a_thread(make)

    @property
    def fd(self) -> int:
        if self._fd is None:
            raise LabError(f"The laboratory of {self.name} is not up: use it inside `with Lab...`.")
        return self._fd

    @property
    def inode(self) -> int:
        """What /proc/PID/ns/net of a process in here shows as net:[inode]."""
        return os.fstat(self.fd).st_ino

    def call(self, function: Callable[[], T]) -> T:
        """Run it in a thread inside; a socket that it makes belongs to this namespace for good."""

        def inside() -> T:
            if _LIBC.setns(self.fd, _CLONE_NEWNET):
                raise LabError(f"Entering {self.name} failed: {os.strerror(ctypes.get_errno())}.")
            return function()

        return _in_a_thread(inside)

    def sysctl(self, key: str, value: int) -> None:
        """key: below /proc/sys/net, with slashes."""
        self.call(lambda: Path("/proc/sys/net", key).write_text(str(value), encoding="ascii"))

    def start(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        new_session: bool = True,
        owned: bool = True,
    ) -> subprocess.Popen[bytes]:
        """The child inherits the thread's namespace, so the pid is the program's own: no wrapper, no fork
        hook.

        new_session keeps Ctrl-C at the terminal from it: the owner ends it, in order. owned: `terminate` ends
        it."""
        environment = dict(os.environ if env is None else env)
        if env is None:
            environment["PATH"] = f"{environment.get('PATH', os.defpath)}:{SBIN}"
        environment.update(self._marker)

        def spawn() -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                pass_fds=pass_fds,
                start_new_session=new_session,
            )
            if owned:
                self._programs.append(process)
            return process

        try:
            return self.call(spawn)
        except (FileNotFoundError, PermissionError):  # the latter: a folder of PATH is closed to us
            raise UnavailableError(
                f"`{argv[0]}` is not there: check the name, or install it (the laboratory itself needs the "
                "Debian packages iproute2, nftables and ethtool)."
            ) from None

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        check: bool = True,
        timeout: float | None = 60.0,
        input: str | None = None,  # noqa: A002
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end and keep what it says. timeout: seconds.

        Raises CommandError (with check, where the exit code is not 0), subprocess.TimeoutExpired,
        UnavailableError."""
        pipe = subprocess.PIPE
        stdin = subprocess.DEVNULL if input is None else pipe
        process = self.start(
            argv, stdin=stdin, stdout=pipe, stderr=pipe, env=env, pass_fds=pass_fds, owned=False
        )
        with process:
            try:
                out, err = process.communicate(None if input is None else input.encode(), timeout)
            except BaseException:
                process.kill()
                raise
        words = [os.fspath(word) for word in argv]
        said, complained = out.decode(errors="replace"), err.decode(errors="replace")
        if check and process.returncode:
            raise CommandError(self.name, words, process.returncode, said, complained)
        return subprocess.CompletedProcess(words, process.returncode, said, complained)

    def popen(
        self,
        argv: Sequence[str | os.PathLike[str]],
        log: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start and own it: SIGTERM, then SIGKILL, when the laboratory ends.

        log: file that its output and errors are appended to; None drops them. env: the whole environment, as
        in subprocess (None: this process's, with the sbin folders in PATH)."""
        if log is None:
            return self.start(argv, env=env)
        with Path(log).open("ab") as file:
            return self.start(argv, stdout=file, stderr=subprocess.STDOUT, env=env)

    def shell(self, argv: Sequence[str]) -> int:
        """Run it on this terminal and give its exit code; Ctrl-C is the program's, not ours."""
        process = self.start(argv, stdin=0, stdout=1, stderr=2, new_session=False)
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return process.wait()

    def wait_until_running(self, devices: Sequence[str], deadline: float) -> None:
        """Until each has its carrier and its queue. deadline: by time.monotonic. Raises LabError."""

        def flags(device: str) -> int:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH14x", device.encode(), 0))
            return int(struct.unpack("16sH14x", answer)[1])

        def wait() -> None:
            for device in devices:
                while not flags(device) & _IFF_RUNNING:
                    if time.monotonic() > deadline:
                        raise LabError(f"In {self.name}, {device} got no carrier: try again; see `dmesg`.")
                    time.sleep(0.005)

        self.call(wait)

    def terminate(self) -> None:
        """SIGTERM to the programs that it owns; `collect` follows."""
        for process in reversed(self._programs):
            process.terminate()

    def collect(self, deadline: float) -> None:
        """Wait for them, up to the deadline (by time.monotonic), then SIGKILL."""
        for process in self._programs:
            try:
                process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._programs.clear()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _in_a_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function())
        except BaseException as error:  # it is raised again in the caller
            failures.append(error)

    thread = threading.Thread(target=body, name="lab namespace")
    thread.start()
    try:
        thread.join()
    except BaseException:
        thread.join()  # Ctrl-C: what the thread makes must be on its owner's list before anybody tidies up
        raise
    if failures:
        raise failures[0]
    return results[0]
