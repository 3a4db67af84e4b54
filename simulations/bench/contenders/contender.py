"""A contender: something that carries traffic between the two hosts, found on this machine or not."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final

from simulations.bench import processes
from simulations.bench.errors import Unmeasured
from simulations.bench.setting import SIDES, Family, Side
from simulations.bench.wiring import Pair
from simulations.lab import reaper
from simulations.lab.errors import CommandError
from simulations.lab.namespaces import GRACE, SBIN

INSIDE4: Final[dict[Side, str]] = {"a": "10.99.0.1", "b": "10.99.0.2"}
INSIDE6: Final[dict[Side, str]] = {"a": "fd99::1", "b": "fd99::2"}
START_SECONDS: Final = 20.0
_PAUSE: Final = 0.005  # s
_OWNERS: Final = ("ZEQ", "NOTIFY_SOCKET")


class Contender(ABC):
    """Made once for a run of the bench: `prepare` once, then `start` in every round, on hosts that are new.

    folder: its own, for keys, configurations and logs. family: of the traffic inside, where the contender
    has a choice. settle: seconds from the first byte on, until its path is as good as it gets."""

    name: ClassVar[str]
    note: ClassVar[str] = ""  # what a reader of its figures must know
    families: ClassVar[tuple[Family, ...]] = (6, 4)
    settle: ClassVar[float] = 0.0
    patience: ClassVar[float] = 0.0  # s that its start takes longer than others', for the estimate

    def __init__(self, folder: Path, family: Family) -> None:
        self.folder = folder
        self.family = self.carries(family)
        self.pids: dict[Side, list[int]] = {}
        self._programs: list[subprocess.Popen[bytes]] = []

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot be measured on this machine, in words that say what to do; None where it can."""
        return None

    @classmethod
    def carries(cls, family: Family) -> Family:
        """That one, or what it has in its place."""
        return family if family in cls.families else cls.families[0]

    @classmethod
    @abstractmethod
    def version(cls) -> str: ...

    def prepare(self, pair: Pair) -> None:  # noqa: B027  (some have nothing to do)
        """Keys, certificates, introductions: what is done once in the life of a tunnel, and not timed."""

    @abstractmethod
    def start(self, pair: Pair) -> None:
        """From nothing to a tunnel that will come up by itself. Raises Unmeasured, LabError."""

    def address(self, side: Side) -> str:
        """Where the traffic to that side goes."""
        return (INSIDE6 if self.family == 6 else INSIDE4)[side]

    def source(self) -> str:
        """Where a sends from; "" is what the kernel takes."""
        return ""

    def handshake_age(self) -> float | None:
        """Seconds since the last handshake, where the contender says."""
        return None

    def all_pids(self) -> list[int]:
        """Of both ends, with all that they started."""
        return processes.tree(pid for pids in self.pids.values() for pid in pids)

    def stop(self) -> None:
        """SIGTERM, and gone; the hosts would see to it too, but later."""
        for program in self._programs:
            program.terminate()
        deadline = time.monotonic() + GRACE
        for program in self._programs:
            try:
                program.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        self._programs.clear()
        self.pids.clear()

    def said(self) -> str:
        """The last line of each log."""
        lines = []
        for side in SIDES:
            with suppress(OSError, IndexError):
                text = self.log(side).read_text(encoding="utf-8", errors="replace")
                lines.append(f"{side}: {text.strip().splitlines()[-1][:300]}")
        return "; ".join(lines) or "its logs are empty"

    def log(self, side: Side) -> Path:
        return self.folder / f"{side}.log"

    # ------------------------------------------------------------------ for those who derive from it

    def launch(
        self, pair: Pair, side: Side, argv: Sequence[str | os.PathLike[str]], **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start it on that host; its CPU time and memory count."""
        # without what the owner of this machine has set for a node of their own
        kept = {key: text for key, text in reaper.python_environment().items() if not key.startswith(_OWNERS)}
        env = {**kept, "PATH": search_path(), **variables}
        program = pair[side].popen(argv, log=self.log(side), env=env)
        processes.favour(program.pid)
        self._programs.append(program)
        self.pids.setdefault(side, []).append(program.pid)
        return program

    def wait(self, check: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
        """Until it is true. Raises Unmeasured where a program ends before, or time is up."""
        deadline = time.monotonic() + seconds
        while not check():
            if any(program.poll() is not None for program in self._programs):
                raise Unmeasured(f"{self.name} ended while starting: {self.said()}")
            if time.monotonic() > deadline:
                raise Unmeasured(f"{self.name}: {what} took over {seconds:.0f} s: {self.said()}")
            time.sleep(_PAUSE)

    def wait_for_device(self, pair: Pair, side: Side, device: str) -> None:
        def is_there() -> bool:
            return any(name == device for _, name in pair[side].call(socket.if_nameindex))

        self.wait(is_there, f"making the device {device}")

    def wait_for_command(self, pair: Pair, side: Side, argv: Sequence[str]) -> None:
        """Again until it succeeds: the program that it talks to is not ready at once."""

        def succeeds() -> bool:
            with suppress(CommandError):
                pair[side].run(argv)
                return True
            return False

        self.wait(succeeds, f"`{' '.join(argv[:2])}`")

    def address_device(self, pair: Pair, side: Side, device: str, mtu: int) -> None:
        """Both families inside, in one network with the other end."""
        pair[side].run(
            ["ip", "-batch", "-"],
            input=f"address add {INSIDE4[side]}/24 dev {device}\n"
            f"address add {INSIDE6[side]}/64 dev {device} nodad\n"
            f"link set dev {device} mtu {mtu} up\n",
        )


def search_path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{SBIN}"


def find(program: str) -> str | None:
    """Its path, also where PATH is an ordinary user's."""
    return shutil.which(program, path=search_path())


def not_installed(program: str, package: str) -> str | None:
    return None if find(program) else f"not installed: run `sudo apt install {package}`"


def first_line(program: str, *options: str) -> str:
    """What it says of its version; "?" where it says nothing."""
    path = find(program)
    if path is None:
        return "?"
    said = subprocess.run([path, *options], capture_output=True, text=True, errors="replace", check=False)
    lines = (said.stdout.strip() or said.stderr.strip()).splitlines()
    return lines[0].strip() if lines else "?"
