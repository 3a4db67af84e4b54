"""What the two ends of a tunnel say to each other, each message a msgpack array.

    sealed events (dht/tags.py)                        notes, in control records of the tunnel itself
    vpn.tunnel.request     Request   payer ▶ payee     1 Open       payer ▶  payee   2 Opened    ◀
    vpn.tunnel.accepted    Answer    payee ▶ payer     3 Statement  payee ▶  payer   4 Paid      ◀   5 Kept  ▶
    vpn.tunnel.pending     Answer                      6 End        either ▶ other   7 Ended     ◀
    vpn.tunnel.refused     Answer                      8 Half       payer ▶  payee, and back
                                                       9 Shown      both, when a tunnel opens

    Request    [1, tunnel_id 16, unit, price, lifespan, reply secret 16, [endpoint …], [[home, handle 16] …]]
    Answer     [1, tunnel_id 16, code, terms, balance, required, left]
    Open       [1, tunnel_id, session 32]     Opened  [2, tunnel_id, session 32 or none]
    Statement  [3, tunnel_id, up, down, zeqonds]
    Paid       [4, voucher]                   Kept    [5, tunnel_id, sequence]
    End        [6, tunnel_id, code]           Ended   [7, tunnel_id]
    Half       [8, tunnel_id, block]          Shown   [9, tunnel_id, opening, what one ledger shows]

A request asks for tunnel_id by the price that the payer saw; who answers it seals to the reply secret, as a
machine that is not listed takes events from nobody else. Endpoints are 6 or 18 bytes (dht/endpoints.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from crypto.cookies import LOOKUP_SECRET_BYTES
from crypto.errors import PeerFault
from dht.endpoints import IPV4_BYTES, IPV6_BYTES
from node.settlement import vouchers
from node.settlement.blocks import BLOCK_BYTES
from node.settlement.terms import LEAST_LIFESPAN, MAX_LIFESPAN, MAX_PRICE_ZEQ, Unit
from node.settlement.vouchers import HASH_BYTES, MAX_SEQUENCE, TUNNEL_ID_BYTES, VOUCHER_BYTES

VERSION: Final = 1
REQUEST_TAG: Final = "vpn.tunnel.request"
ACCEPTED_TAG: Final = "vpn.tunnel.accepted"
PENDING_TAG: Final = "vpn.tunnel.pending"
REFUSED_TAG: Final = "vpn.tunnel.refused"
ANSWER_TAGS: Final = (ACCEPTED_TAG, PENDING_TAG, REFUSED_TAG)
NOTE_BYTES: Final = 900
SHOWN_BYTES: Final = 850
MAX_ENDPOINTS: Final = 8
MAX_HOMES: Final = 3
ENDPOINT_SIZES: Final = (IPV4_BYTES, IPV6_BYTES)
_HANDLE_BYTES: Final = 16

_Version = Annotated[int, Meta(ge=VERSION, le=VERSION)]
_TunnelId = Annotated[bytes, Meta(min_length=TUNNEL_ID_BYTES, max_length=TUNNEL_ID_BYTES)]
_Hash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
_MaybeHash = Annotated[bytes, Meta(max_length=HASH_BYTES)]
_Secret = Annotated[bytes, Meta(min_length=LOOKUP_SECRET_BYTES, max_length=LOOKUP_SECRET_BYTES)]
_Endpoint = Annotated[bytes, Meta(min_length=IPV4_BYTES, max_length=IPV6_BYTES)]
_Handle = Annotated[bytes, Meta(min_length=_HANDLE_BYTES, max_length=_HANDLE_BYTES)]
_Code = Annotated[str, Meta(max_length=40, pattern=r"^[A-Z_]*\Z")]
_Amount = Annotated[int, Meta(ge=-(2**62), le=2**62)]
_Count = Annotated[int, Meta(ge=0, le=2**62)]
_Block = Annotated[bytes, Meta(max_length=BLOCK_BYTES)]


class BadMessage(PeerFault):
    """A request, an answer or a note that cannot be read."""


class Request(msgspec.Struct, array_like=True, frozen=True, kw_only=True, gc=False):
    """`homes`: (endpoint, handle). `price_zeq`: for each unit, as the payer saw it offered."""

    version: _Version = VERSION
    tunnel_id: _TunnelId
    pricing_unit: Unit
    price_zeq: Annotated[int, Meta(ge=0, le=MAX_PRICE_ZEQ)]
    lifespan_zeqonds: Annotated[int, Meta(ge=LEAST_LIFESPAN, le=MAX_LIFESPAN)]
    reply_secret: _Secret
    endpoints: Annotated[tuple[_Endpoint, ...], Meta(max_length=MAX_ENDPOINTS)] = ()
    homes: Annotated[tuple[tuple[_Endpoint, _Handle], ...], Meta(max_length=MAX_HOMES)] = ()


class Answer(msgspec.Struct, array_like=True, frozen=True, kw_only=True, gc=False):
    """`code`: why it is refused, else empty. `balance_zeq` and `min_required_zeq`: the seeds' figures for
    this payer here, in whole ZEQ; `left`: millionths that the payee still extends."""

    version: _Version = VERSION
    tunnel_id: _TunnelId
    code: _Code = ""
    terms: Annotated[bytes, Meta(max_length=64)]
    balance_zeq: _Amount
    min_required_zeq: _Count
    left: _Amount


class Open(msgspec.Struct, array_like=True, frozen=True, tag=1, gc=False):
    tunnel_id: _TunnelId
    session: _Hash


class Opened(msgspec.Struct, array_like=True, frozen=True, tag=2, gc=False):
    """Without a session: the payee does not know that one, name another."""

    tunnel_id: _TunnelId
    session: _MaybeHash


class Stated(msgspec.Struct, array_like=True, frozen=True, tag=3, gc=False):
    tunnel_id: _TunnelId
    up: _Count
    down: _Count
    zeqonds: _Count


class Paid(msgspec.Struct, array_like=True, frozen=True, tag=4, gc=False):
    voucher: Annotated[bytes, Meta(max_length=VOUCHER_BYTES)]


class Kept(msgspec.Struct, array_like=True, frozen=True, tag=5, gc=False):
    tunnel_id: _TunnelId
    sequence: Annotated[int, Meta(ge=1, le=MAX_SEQUENCE)]


class End(msgspec.Struct, array_like=True, frozen=True, tag=6, gc=False):
    tunnel_id: _TunnelId
    code: _Code


class Ended(msgspec.Struct, array_like=True, frozen=True, tag=7, gc=False):
    tunnel_id: _TunnelId


class Half(msgspec.Struct, array_like=True, frozen=True, tag=8, gc=False):
    tunnel_id: _TunnelId
    block: _Block


class Shown(msgspec.Struct, array_like=True, frozen=True, tag=9, gc=False):
    """What is in it, the ledgers know. `opening`: the first of what is shown before anything was; it is
    repeated until the other side has shown its own."""

    tunnel_id: _TunnelId
    opening: bool
    body: Annotated[bytes, Meta(max_length=SHOWN_BYTES)]


Note: TypeAlias = Open | Opened | Stated | Paid | Kept | End | Ended | Half | Shown

_encode = msgspec.msgpack.Encoder().encode
_request = msgspec.msgpack.Decoder(Request).decode
_answer = msgspec.msgpack.Decoder(Answer).decode
_note: Callable[[bytes], Note] = msgspec.msgpack.Decoder(Note).decode


def encode(message: Request | Answer | Note) -> bytes:
    """At most 900 bytes."""
    return _encode(message)


def decode_request(data: bytes) -> Request:
    """Raises BadMessage."""
    try:
        request = _request(data)
    except (ValueError, RecursionError) as error:
        raise BadMessage("not a request for a tunnel") from error
    endpoints = (*request.endpoints, *(home for home, _ in request.homes))
    if any(len(each) not in ENDPOINT_SIZES for each in endpoints):
        raise BadMessage("a request from no address")
    return request


def decode_answer(data: bytes) -> Answer:
    """Raises BadMessage."""
    try:
        return _answer(data)
    except (ValueError, RecursionError) as error:
        raise BadMessage("not an answer to a request") from error


def tunnel_of(voucher: bytes) -> bytes:
    """The tunnel_id that a voucher names, 16 bytes; empty for what is no voucher."""
    try:
        return vouchers.read(voucher).tunnel_id
    except vouchers.BadVoucher:
        return b""


def decode_note(data: bytes) -> Note:
    """Raises BadMessage."""
    try:
        return _note(data)
    except (ValueError, RecursionError) as error:
        raise BadMessage("not a note of a tunnel") from error
