"""Nebula, a its lighthouse. Version 1.6 carries IPv4 alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

from simulations.bench.contenders.contender import (
    INSIDE4,
    Contender,
    find,
    first_line,
    not_installed,
)
from simulations.bench.setting import SIDES, Side
from simulations.bench.wiring import ADDRESS, OTHER, Pair

_DEVICE: Final = "nebula"
_MTU: Final = 1420
_PORT: Final = 4242


class Nebula(Contender):
    name = "nebula"
    note = "IPv4 inside: it has no other"
    families = (4,)

    @classmethod
    def missing(cls) -> str | None:
        return not_installed("nebula", "nebula") or not_installed("nebula-cert", "nebula")

    @classmethod
    def version(cls) -> str:
        return first_line("nebula", "-version").replace("Version:", "nebula")

    def prepare(self, pair: Pair) -> None:  # noqa: ARG002
        self._make("ca", "-name", "bench", "-out-crt", "ca.crt", "-out-key", "ca.key")
        for side in SIDES:
            names = ["-out-crt", f"{side}.crt", "-out-key", f"{side}.key"]
            issuer = ["-ca-crt", "ca.crt", "-ca-key", "ca.key"]
            self._make("sign", *issuer, "-name", side, "-ip", f"{INSIDE4[side]}/24", *names)
            # JSON is YAML, too
            self._config(side).write_text(json.dumps(self._settings(side), indent=1), encoding="utf-8")

    def start(self, pair: Pair) -> None:
        for side in SIDES:
            self.launch(pair, side, ["nebula", "-config", self._config(side)])
        for side in SIDES:
            self.wait_for_device(pair, side, _DEVICE)

    def _make(self, *words: str) -> None:
        program = find("nebula-cert")
        assert program is not None, "it is not missing"
        subprocess.run([program, *words], cwd=self.folder, check=True, capture_output=True)

    def _config(self, side: Side) -> Path:
        return self.folder / f"{side}.yml"

    def _settings(self, side: Side) -> dict[str, object]:
        other, is_lighthouse = OTHER[side], side == "a"
        anybody = [{"port": "any", "proto": "any", "host": "any"}]
        lighthouse = {
            "am_lighthouse": is_lighthouse,
            "interval": 60,
            "hosts": [] if is_lighthouse else [INSIDE4["a"]],
        }
        files = {"ca": "ca.crt", "cert": f"{side}.crt", "key": f"{side}.key"}
        buffers = {"read_buffer": 8388608, "write_buffer": 8388608}
        return {
            "pki": {key: str(self.folder / name) for key, name in files.items()},
            "static_host_map": {INSIDE4[other]: [f"{ADDRESS[other]}:{_PORT}"]},
            "lighthouse": lighthouse,
            "listen": {"host": ADDRESS[side], "port": _PORT, "batch": 64, **buffers},
            "punchy": {"punch": False},
            "cipher": "aes",
            "tun": {"dev": _DEVICE, "mtu": _MTU, "tx_queue": 1000},
            "logging": {"level": "error", "format": "text"},
            "firewall": {
                "conntrack": {"tcp_timeout": "12m", "udp_timeout": "3m", "default_timeout": "10m"},
                "outbound": anybody,
                "inbound": anybody,
            },
        }
