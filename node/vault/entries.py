"""What is written about secrets: beside each one, and in the audit chain. Pure.

about    msgpack [version 1, purpose, by, [permissions], made, expires or nil]      associated data of its box
entry    msgpack [version 1, number, zeqond, what, outcome, purpose, by]
link     HMAC-SHA256(audit key, label ‖ link before ‖ entry)                        32 bytes

purpose      as "vpn.tunnel.<id>.key": 1 to 255 bytes of printable UTF-8 without blanks
principal    a ZID (crypto/zid.py), or "machine:" and a machine_id as 64 hex digits
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from crypto.vault_box import Boxes
from crypto.zid import BadZid, parse_zid
from node.vault.errors import BadPurpose

VERSION: Final = 1
PURPOSE_BYTES_MAX: Final = 255
PERMISSIONS_MAX: Final = 16
LINK_BYTES: Final = 32

_LINK_LABEL: Final = b"zeqnode vault audit v1"
_MACHINE = re.compile(r"machine:[0-9a-f]{64}")


class What(StrEnum):
    CREATE = "create"
    PUT = "put"
    GET = "get"
    REMOVE = "remove"
    EXPIRE = "expire"
    ROTATE = "rotate"


class Outcome(StrEnum):
    DONE = "done"
    DENIED = "denied"
    MISSING = "missing"


class About(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """Whose secret it is, who else may have it, and until which zeqond; it was made at the zeqond `made`."""

    version: Annotated[int, Meta(ge=VERSION, le=VERSION)] = VERSION
    purpose: str
    by: str
    permissions: tuple[str, ...]
    made: int
    expires: int | None

    def admits(self, principal: str) -> bool:
        """Who put it always, and whom the permissions name."""
        return principal == self.by or principal in self.permissions

    def is_over(self, zeqond: int) -> bool:
        return self.expires is not None and zeqond >= self.expires


class Entry(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """One line of the audit: `by` whom; `purpose` is empty where no secret is meant."""

    version: Annotated[int, Meta(ge=VERSION, le=VERSION)] = VERSION
    number: int
    zeqond: int
    what: What
    outcome: Outcome
    purpose: str
    by: str


encode: Final = msgspec.msgpack.Encoder().encode
read_about: Final = msgspec.msgpack.Decoder(About).decode
read_entry: Final = msgspec.msgpack.Decoder(Entry).decode


def link(boxes: Boxes, before: bytes, raw: bytes) -> bytes:
    """The link of an entry (its bytes) after the link of the one before it."""
    return boxes.mac(b"audit", _LINK_LABEL + before + raw)


def machine(machine_id: bytes) -> str:
    """The principal that is a machine."""
    return f"machine:{machine_id.hex()}"


def machine_id_of(principal: str) -> bytes | None:
    """32 bytes where the principal is a machine."""
    return bytes.fromhex(principal.partition(":")[2]) if _MACHINE.fullmatch(principal) else None


def check_principal(principal: str) -> None:
    """Raises ValueError for what is neither a ZID, in lower case, nor a machine."""
    if _MACHINE.fullmatch(principal):
        return
    try:
        parse_zid(principal)
    except BadZid:
        raise ValueError(f"{principal!r} is neither a ZID nor a machine") from None
    if principal != principal.lower():
        raise ValueError(f"{principal!r} is a ZID that is not in lower case")


def check_purpose(purpose: str) -> None:
    """Raises BadPurpose."""
    try:
        size = len(purpose.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        size = 0
    plain = purpose.isprintable() and not any(char.isspace() for char in purpose)
    if not 1 <= size <= PURPOSE_BYTES_MAX or not plain:
        raise BadPurpose(
            "a secret's name has 1 to 255 bytes and no blanks, as vpn.tunnel.<id>.key; "
            "see those there are: zeqnode vault list"
        )
