"""tinc 1.0."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from simulations.bench.contenders.contender import INSIDE4, INSIDE6, Contender, first_line, not_installed
from simulations.bench.setting import SIDES, Side
from simulations.bench.wiring import ADDRESS, Pair

_DEVICE: Final = "tinc"
_MTU: Final = 1400


class Tinc(Contender):
    name = "tinc"
    settle = 4.0  # it probes how large a datagram may be, and sends by TCP until it knows

    @classmethod
    def missing(cls) -> str | None:
        return not_installed("tincd", "tinc")

    @classmethod
    def version(cls) -> str:
        return " ".join(first_line("tincd", "--version").split()[:3])

    def prepare(self, pair: Pair) -> None:  # noqa: ARG002
        hosts = {}
        for side in SIDES:
            (self._folder(side) / "hosts").mkdir(parents=True)
            key = rsa.generate_private_key(65537, 2048)
            file = self._folder(side) / "rsa_key.priv"
            file.touch(0o600)
            file.write_bytes(
                key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
            )
            public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()
            hosts[side] = (
                f"Address = {ADDRESS[side]}\nSubnet = {INSIDE4[side]}/32\nSubnet = {INSIDE6[side]}/128\n"
                f"PMTU = {_MTU + 20}\n{public}"
            )
        for side in SIDES:
            calls = "ConnectTo = b\n" if side == "a" else ""
            (self._folder(side) / "tinc.conf").write_text(
                f"Name = {side}\nInterface = {_DEVICE}\nDeviceType = tun\nAddressFamily = ipv4\n{calls}"
                "UDPRcvBuf = 4194304\nUDPSndBuf = 4194304\n",
                encoding="ascii",
            )
            for name, text in hosts.items():
                (self._folder(side) / "hosts" / name).write_text(text, encoding="ascii")

    def start(self, pair: Pair) -> None:
        for side in reversed(SIDES):  # a calls b, and tries again only after five seconds
            folder = self._folder(side)
            argv: list[str | Path] = ["tincd", "-c", folder, "-D", "-d1", f"--pidfile={folder}.pid"]
            self.launch(pair, side, argv)
            self.wait_for_device(pair, side, _DEVICE)
        for side in SIDES:
            self.address_device(pair, side, _DEVICE, _MTU)

    def _folder(self, side: Side) -> Path:
        return self.folder / side
