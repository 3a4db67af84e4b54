"""Questions of one machine to another, and their answers, as the bodies of sealed events.

    zeq.ask      msgpack [version 1, id 16, method, payload, reply secret 16, endpoints, [home, handle 16] …]
    zeq.answer   msgpack [version 1, id 16, status, payload]

The event is signed by its author and sealed to its reader, so neither says who it is. `id` is random and
the asker's own: a question that comes again has the same and gets the same answer. The reply secret, the
endpoints and the homes say how the answer finds an asker that is not listed.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from crypto.errors import PeerFault
from dht.locations import MAX_ENDPOINTS, MAX_HOMES, Handle, Where

VERSION: Final = 1
ASK_TAG: Final = "zeq.ask"
ANSWER_TAG: Final = "zeq.answer"
ID_BYTES: Final = 16
PAYLOAD_BYTES: Final = 3584  # the rest fits into an event beside it, with all endpoints and homes

_Version = Annotated[int, Meta(ge=VERSION, le=VERSION)]
_Id = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
_Payload = Annotated[bytes, Meta(max_length=PAYLOAD_BYTES)]
_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,39}")


class BadAsk(PeerFault):
    """A question or an answer that cannot be read."""


class Status(IntEnum):
    """Of an answer. The payload of REFUSED is a code in ASCII, of UNKNOWN and FAILED nothing."""

    DONE = 0
    UNKNOWN = 1  # a method that the machine does not have
    REFUSED = 2
    FAILED = 3


class Ask(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    version: _Version = VERSION
    id: _Id
    method: Annotated[str, Meta(pattern=r"^[a-z0-9_-]+(\.[a-z0-9_-]+)*\Z", max_length=40)]
    payload: _Payload
    secret: Handle
    endpoints: Annotated[tuple[Where, ...], Meta(max_length=MAX_ENDPOINTS)]
    homes: Annotated[tuple[tuple[Where, Handle], ...], Meta(max_length=MAX_HOMES)]


class Answer(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    version: _Version = VERSION
    id: _Id
    status: Status
    payload: _Payload


encode = msgspec.msgpack.Encoder().encode
_asks = msgspec.msgpack.Decoder(Ask)
_answers = msgspec.msgpack.Decoder(Answer)


def decode_ask(body: bytes) -> Ask:
    """Raises BadAsk."""
    try:
        return _asks.decode(body)
    except (ValueError, RecursionError) as error:
        raise BadAsk("question that cannot be read") from error


def decode_answer(body: bytes) -> Answer:
    """Raises BadAsk."""
    try:
        return _answers.decode(body)
    except (ValueError, RecursionError) as error:
        raise BadAsk("answer that cannot be read") from error


def code_of(payload: bytes) -> str:
    """Of an answer that is REFUSED: as it stands, or "REFUSED" for what is no code."""
    text = payload.decode("ascii", "replace")
    return text if _CODE.fullmatch(text) else "REFUSED"
