"""wireguard-go, the WireGuard in user space: a new build that is named, and the one of the system.

Builds from 2023 on read and write trains of packets (offloads), and Debian 12's of March 2022 does not: these
are two contenders. `wg` (wireguard-tools) gives them their keys; the kernel's WireGuard has no part in it.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import ClassVar, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from simulations.bench.contenders.contender import INSIDE4, INSIDE6, Contender, find, not_installed
from simulations.bench.setting import SIDES, Side
from simulations.bench.wiring import ADDRESS, OTHER, Pair

VARIABLE: Final = "WIREGUARD_GO"
_PROGRAM: Final = "wireguard-go"
_OFFLOADS_SINCE: Final = 20230223
_MTU: Final = 1420  # its own default
_PORT: Final = 51820
_SOCKETS: Final = Path("/var/run/wireguard")  # compiled into it
_NEW: Final = "wireguard-go"
_OLD: Final = "wireguard-go 2022"


class WireGuardGo(Contender):
    """Of WIREGUARD_GO, else the system's where that is new enough."""

    name = _NEW
    is_new: ClassVar[bool] = True

    @classmethod
    def program(cls) -> str | None:
        given, installed = os.environ.get(VARIABLE), find(_PROGRAM)
        if cls.is_new:
            return given or (installed if _date(installed) >= _OFFLOADS_SINCE else None)
        return installed if 0 < _date(installed) < _OFFLOADS_SINCE else None

    @classmethod
    def missing(cls) -> str | None:
        if reason := not_installed("wg", "wireguard-tools"):
            return reason
        program = cls.program()
        if program is None:
            if cls.is_new:
                return f"not found: set {VARIABLE} to the path of a build of 2023 or newer"
            return not_installed(_PROGRAM, _PROGRAM) or "the system's wireguard-go is a newer one"
        if not os.access(program, os.X_OK):
            return f"{VARIABLE} names no program: set it to the path of a build of 2023 or newer"
        folder = _SOCKETS if _SOCKETS.is_dir() else _SOCKETS.parent
        if not os.access(folder, os.W_OK):
            return f"it keeps a socket in {folder}, which is closed to ordinary users: run this as root"
        return None

    @classmethod
    def version(cls) -> str:
        return f"wireguard-go {_date(cls.program()) or '?'}"

    def prepare(self, pair: Pair) -> None:  # noqa: ARG002
        self._public: dict[Side, str] = {}
        for side in SIDES:
            key = X25519PrivateKey.generate()
            self._public[side] = base64.b64encode(key.public_key().public_bytes_raw()).decode()
            file = self._key_file(side)
            file.touch(0o600)
            file.write_text(base64.b64encode(key.private_bytes_raw()).decode(), encoding="ascii")

    def start(self, pair: Pair) -> None:
        program = self.program()
        assert program is not None, "it is not missing"
        for side in SIDES:
            foreground = {"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"}
            self.launch(pair, side, [program, "-f", self._device(side)], **foreground)
        for side in SIDES:
            self.wait_for_device(pair, side, self._device(side))
            self.wait_for_command(pair, side, self._settings(side))
            self.address_device(pair, side, self._device(side), _MTU)

    def _settings(self, side: Side) -> list[str]:
        other = OTHER[side]
        own = f"listen-port {_PORT} private-key {self._key_file(side)}"
        peer = f"allowed-ips {INSIDE4[other]}/32,{INSIDE6[other]}/128 endpoint {ADDRESS[other]}:{_PORT}"
        words = ["wg", "set", self._device(side), *own.split(), "peer", self._public[other]]
        return [*words, *peer.split()]

    def _device(self, side: Side) -> str:
        """Its socket is found by the device's name, by all programs of the machine."""
        return f"wg{side}{os.getpid()}"

    def _key_file(self, side: Side) -> Path:
        return self.folder / f"{side}.key"


class OldWireGuardGo(WireGuardGo):
    """The system's, where that is from before the offloads."""

    name = _OLD
    is_new = False
    note = "before its offloads"


@cache
def _date(program: str | None) -> int:
    """Of `wireguard-go v0.0.20250522`: 20250522; 0 where it does not say."""
    if program is None:
        return 0
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return 0
    found = re.search(r"\b(20\d{6})\b", said.stdout)
    return int(found[1]) if found else 0
