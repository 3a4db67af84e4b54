"""OpenVPN, its data channel in user space, point to point."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from simulations.bench.contenders.contender import INSIDE4, INSIDE6, Contender, first_line, not_installed
from simulations.bench.setting import SIDES, Side
from simulations.bench.wiring import ADDRESS, OTHER, Pair

_DEVICE: Final = "ovpn"
_MTU: Final = 1420


class OpenVPN(Contender):
    name = "openvpn"

    @classmethod
    def missing(cls) -> str | None:
        return not_installed("openvpn", "openvpn")

    @classmethod
    def version(cls) -> str:
        return " ".join(first_line("openvpn", "--version").split()[:2])

    def prepare(self, pair: Pair) -> None:  # noqa: ARG002
        self._fingerprints = {side: _certificate(self._file(side, "key"), side) for side in SIDES}

    def start(self, pair: Pair) -> None:
        for side in SIDES:
            self.launch(pair, side, ["openvpn", *self._options(side).split()])
        for side in SIDES:
            self.wait_for_device(pair, side, _DEVICE)

    def _options(self, side: Side) -> str:
        other = OTHER[side]
        return (
            f"--dev {_DEVICE} --dev-type tun --proto udp --local {ADDRESS[side]} --remote {ADDRESS[other]} "
            f"--ifconfig {INSIDE4[side]} {INSIDE4[other]} "
            f"--ifconfig-ipv6 {INSIDE6[side]}/64 {INSIDE6[other]} "
            f"--cert {self._file(side, 'crt')} --key {self._file(side, 'key')} "
            f"--peer-fingerprint {self._fingerprints[other]} "
            f"--data-ciphers AES-256-GCM --disable-dco --verb 1 "
            f"--tun-mtu {_MTU} --mssfix 0 --sndbuf 4194304 --rcvbuf 4194304 --txqueuelen 1000 "
            + ("--tls-server --dh none" if side == "a" else "--tls-client")
        )

    def _file(self, side: Side, suffix: str) -> Path:
        return self.folder / f"{side}.{suffix}"


def _certificate(key_file: Path, name: str) -> str:
    """Write a key and beside it (.crt) its certificate, signed by itself; gives the SHA-256 fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    key_file.touch(0o600)
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key_file.with_suffix(".crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()
