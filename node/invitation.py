"""Invitations: one line of text (or a QR code) that is all a stranger needs to join a machine.

    "zeq://" base64url( body ‖ signature )                    no padding; about 300 to 500 characters

    body       version (1 byte, now 1) ‖ msgpack array of
               0 machine_id      bin 32     whom to call
               1 ed25519         bin 32     signs this; one of the keys that machine_id pins
               2 name            str ≤ 32   what the inviter calls itself: a to z, 0 to 9, "-"
               3 addresses       array ≤ 8  of "192.0.2.1:51777", "[2001:db8::1]:51777", "ada.example:51777"
               4 homes           array ≤ 3  of bin 32: machine_ids of relays that can call it
               5 lookup_secret   bin 16     finds its record in the DHT
               6 token           bin 16     lets one machine in, once
               7 expires         uint       unix seconds
    signature  64 bytes, Ed25519 over label "zeqnode invitation v1" and body

The signature shows damage at once, without a network. It does not show whose key signed: a forger can put a
key of their own beside a true machine_id. So `confirm` compares both again when the bundle has come.
Whoever holds the text may join: it is a secret until it is used.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import unicodedata
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from typing import Final

import msgpack
import segno

from crypto.identity import SIGNATURE_BYTES, BadSignature, KeyBundle, verify
from node.errors import Refused, Usage

SCHEME: Final = "zeq://"
LABEL: Final = b"zeqnode invitation v1"
VERSION: Final = 1
NAME_CHARS: Final = 32
ADDRESSES_MAX: Final = 8
HOMES_MAX: Final = 3
TEXT_MAX: Final = 4096

_NAME: Final = re.compile(r"([a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?)?")
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_EXPIRES_MAX: Final = 253_402_300_799  # the end of the year 9999, the last that can be shown as a date


class NotAnInvitation(Usage):
    """Text of some other kind."""


class InvitationDamaged(Usage):
    """Cut short, mistyped or changed by somebody."""


class InvitationTooNew(Usage):
    """Of a version that this program does not know."""


class InvitationExpired(Refused):
    """Its time is over."""


@dataclass(frozen=True)
class Invitation:
    """The fields as drawn above; bytes of 32, 32, …, 16 and 16; `expires` in unix seconds."""

    machine_id: bytes
    ed25519: bytes
    name: str
    addresses: tuple[str, ...]
    homes: tuple[bytes, ...]
    lookup_secret: bytes
    token: bytes
    expires: int

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError where a field is not as drawn."""
        for field, size in (("machine_id", 32), ("ed25519", 32), ("lookup_secret", 16), ("token", 16)):
            _require(_is_bytes(getattr(self, field), size), field)
        for field, most in (("addresses", ADDRESSES_MAX), ("homes", HOMES_MAX)):
            _require(isinstance(getattr(self, field), tuple) and len(getattr(self, field)) <= most, field)
        _require(_NAME.fullmatch(self.name), "name")
        _require(all(map(is_address, self.addresses)), "addresses")
        _require(all(_is_bytes(home, 32) for home in self.homes), "homes")
        _require(type(self.expires) is int and 0 <= self.expires <= _EXPIRES_MAX, "expires")

    def confirm(self, bundle: KeyBundle) -> None:
        """Return if the fetched bundle is the one that this invitation means; else InvitationDamaged."""
        if (bundle.machine_id, bundle.ed25519) != (self.machine_id, self.ed25519):
            raise InvitationDamaged(
                "the machine that answers is not the one that this invitation names; ask for a new one, "
                "and compare the fingerprints"
            )


def encode(invitation: Invitation, sign: Callable[[bytes, bytes], bytes]) -> str:
    """The text; `sign(label, payload) -> 64 bytes` with the inviter's Ed25519 key."""
    body = bytes([VERSION]) + msgpack.packb(astuple(invitation))
    return SCHEME + _base64url(body + sign(LABEL, body))


def parse(text: str, now_unix: int) -> Invitation:
    """Read and check; blanks and line breaks anywhere do not matter.

    Raises NotAnInvitation, InvitationTooNew, InvitationDamaged or InvitationExpired.
    """
    data = _unwrap(text)
    if data[0] > VERSION:
        raise InvitationTooNew("this invitation comes from a newer zeqnode; update this one and join again")
    body, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    try:
        invitation = _from_body(body)
        verify(invitation.ed25519, LABEL, body, signature)
    except (ValueError, TypeError, BadSignature) as error:
        raise _damaged() from error
    if now_unix >= invitation.expires:
        until = datetime.fromtimestamp(invitation.expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
        raise InvitationExpired(f"this invitation was good until {until}; ask for a new one")
    return invitation


def clean_name(text: str) -> str:
    """The nearest name that an invitation may carry: "Ada's Café" becomes "ada-s-cafe"; may be empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:NAME_CHARS].rstrip("-")


def is_address(text: object) -> bool:
    """Whether it is "host:port": an IPv4 address, an IPv6 one in brackets without a zone, or a DNS name."""
    if not isinstance(text, str):
        return False
    host, _, port = text.rpartition(":")
    if not _PORT.fullmatch(port) or int(port) > 65535:
        return False
    try:
        if host.startswith("[") and host.endswith("]"):
            return ipaddress.IPv6Address(host[1:-1]).scope_id is None
        ipaddress.IPv4Address(host)
        return True
    except ValueError:
        return _is_dns_name(host)


def qr_lines(text: str) -> str:
    """The text as a QR code for a terminal: two modules to a character, black on white with its quiet zone.

    The colours are set by escape sequences, so that it scans on dark and light terminals alike.
    """
    rows = [bytes(row) for row in segno.make_qr(text, error="l").matrix_iter(border=4)]
    rows += [bytes(len(rows[0]))] * (len(rows) % 2)
    pairs = zip(rows[::2], rows[1::2], strict=True)
    lines = ("".join(" ▄▀█"[2 * up + down] for up, down in zip(*pair, strict=True)) for pair in pairs)
    return "\n".join(f"\x1b[38;5;16;48;5;231m{line}\x1b[0m" for line in lines)


def _unwrap(text: str) -> bytes:
    """The bytes behind "zeq://", at least 65 of them."""
    visible = "".join(char for char in text if "!" <= char <= "~").strip("<>\"'`")
    if visible[: len(SCHEME)].lower() != SCHEME or len(visible) > TEXT_MAX:
        raise NotAnInvitation(f"this is not an invitation: one begins with {SCHEME}; copy all of it")
    body = visible[len(SCHEME) :]
    try:
        data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except ValueError as error:
        raise _damaged() from error
    # The decoder overlooks foreign characters and stray last bits; a text stands for one invitation only.
    if _base64url(data) != body or len(data) <= SIGNATURE_BYTES:
        raise _damaged()
    return data


def _from_body(body: bytes) -> Invitation:
    """Raises ValueError or TypeError on anything but what `encode` makes."""
    if body[:1] != bytes([VERSION]):
        raise ValueError("no such version")
    array = msgpack.unpackb(body[1:], use_list=False)
    if type(array) is not tuple or len(array) != len(fields(Invitation)):
        raise ValueError("not the array of an invitation")
    return Invitation(*array)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _is_dns_name(host: str) -> bool:
    labels = host.split(".")
    return len(host) <= 253 and all(map(_DNS_LABEL.fullmatch, labels)) and not labels[-1].isdigit()


def _is_bytes(value: object, size: int) -> bool:
    return isinstance(value, bytes) and len(value) == size


def _require(holds: object, field: str) -> None:
    if not holds:
        raise ValueError(f"the invitation's {field} cannot be as given")


def _damaged() -> InvitationDamaged:
    return InvitationDamaged("this invitation is cut short or changed; copy all of it, or ask for a new one")
