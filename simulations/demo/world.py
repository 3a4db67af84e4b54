"""What the demo is made of: two hosts, the wire, and real programs in them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio

from crypto.identity import KeyBundle
from node import control
from node.errors import NotRunning
from node.identity_store import load_public
from simulations.demo.board import StepFailed
from simulations.lab import reaper
from simulations.lab.errors import CommandError
from simulations.lab.lab import Host
from simulations.lab.namespaces import SBIN

LINK = "wire"
MEGABITS = 15
HOME_ADDRESS = "10.80.0.1"
CAFE_MOVES_TO = "10.80.0.77"
WEB_PORT = 8000
# IPv4 alone outside, so that a new address is a new path. "nic": frames on the wire are as long as on a real
# one.
TOPOLOGY = f"""
[hosts.home]
[hosts.cafe]

[links.{LINK}]
ends = ["home", "cafe"]
subnet = "10.80.0.0/24"
addresses = {{ home = "{HOME_ADDRESS}" }}
rate = "{MEGABITS}mbit"
offload = "nic"
"""
_START_SECONDS = 20.0
_COMMAND_SECONDS = 60.0
_PAUSE = 0.02
_PROGRAMS = {"ping": "iputils-ping", "curl": "curl"}


def missing_programs() -> str | None:
    """None, or a sentence that says what to install."""
    path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
    packages = [package for name, package in _PROGRAMS.items() if not shutil.which(name, path=path)]
    return f"Programs are missing: run `sudo apt install {' '.join(packages)}`." if packages else None


class Node:
    """A real node on a host, with a state directory, a configuration and a log of its own in `folder`."""

    def __init__(self, host: Host, shown: str, folder: Path) -> None:
        self.host = host
        self.shown = shown
        self.log = folder / f"{host.name}.log"
        self._state = folder / host.name
        self._config = folder / f"{host.name}.toml"
        self._config.write_text(f'[node]\nname = "{host.name}"\nstate = "{self._state}"\n', encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was started"
        return self._process.pid

    def start(self) -> None:
        """`zeqnode run`; `wait_until_running` follows."""
        self._process = self.host.popen(self._command("run"), log=self.log, env=self._environment())

    def wait_until_running(self) -> None:
        """Until it answers. Raises StepFailed with its last words if it ends, or does not come up."""
        deadline = time.monotonic() + _START_SECONDS
        while self.status() is None:
            ended = self._process is not None and self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                words = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                last = words[-1] if words else "its log is empty"
                raise StepFailed(f"the node of {self.shown} does not run: {last}")
            time.sleep(_PAUSE)

    def kill(self) -> None:
        """SIGKILL, and gone."""
        assert self._process is not None, "it was started"
        self._process.kill()
        self._process.wait()

    def command(self, *words: str) -> dict[str, Any]:
        """What `zeqnode WORDS --json` prints, run on the node's host. Raises StepFailed with its sentence."""
        try:
            ran = self.host.run(
                self._command(*words, "--json"), env=self._environment(), timeout=_COMMAND_SECONDS
            )
        except CommandError as error:
            said = error.stderr.strip() or error.stdout.strip()
            raise StepFailed(f"`zeqnode {words[0]}` on {self.shown} ended with: {said}") from None
        answer: dict[str, Any] = json.loads(ran.stdout)
        return answer

    def status(self) -> dict[str, Any] | None:
        """As `zeqnode status --json`, without starting a program for it; None while no node answers."""
        try:
            return trio.run(partial(control.call, self._state / control.SOCKET_NAME, "status"))
        except NotRunning:
            return None

    def peer(self) -> dict[str, Any] | None:
        """Its only peer, as in `status`; None while no node answers or it has none."""
        status = self.status()
        return status["peers"][0] if status and status["peers"] else None

    def bundle(self) -> KeyBundle:
        """The machine's public keys."""
        return load_public(self._state)

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "node", *words, "--config", str(self._config)]

    def _environment(self) -> dict[str, str]:
        """Without what the owner has set for a node of their own."""
        kept = {key: value for key, value in reaper.python_environment().items() if not key.startswith("ZEQ")}
        return {**kept, "PATH": f"{kept.get('PATH', os.defpath)}:{SBIN}"}


def serve_files(host: Host, folder: Path, log: Path) -> None:
    """Python's own web server, on every address that the host has or will have. Raises StepFailed."""
    words = [sys.executable, "-m", "http.server", str(WEB_PORT), "--bind", "::", "--directory", str(folder)]
    process = host.popen(words, log=log)
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(host):
        if process.poll() is not None or time.monotonic() > deadline:
            raise StepFailed(f"the web server of {host.name} does not start")
        time.sleep(_PAUSE)


def ping(host: Host, address: str) -> float:
    """Milliseconds, the best of three by the real `ping`. Raises StepFailed if one is lost."""
    ran = host.run(["ping", "-n", "-c", "3", "-i", "0.2", "-W", "3", address], check=False)
    if ran.returncode or " 0% packet loss" not in ran.stdout:
        said = (ran.stderr.strip() or ran.stdout.strip()).splitlines()
        raise StepFailed(f"ping {address}: {said[-1] if said else 'no answer'}")
    # rtt min/avg/max/mdev = 0.512/0.603/0.744/0.101 ms
    return float(ran.stdout.rsplit(" = ", 1)[1].split("/")[0])


def _answers(host: Host) -> bool:
    def connect() -> bool:
        with suppress(OSError), socket.create_connection(("::1", WEB_PORT), 1):
            return True
        return False

    return host.call(connect)
