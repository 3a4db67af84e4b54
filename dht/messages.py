"""Every datagram of discovery, one small class each. The first byte says whose it is, msgpack follows.

    0xD0 ‖ msgpack [kind, transaction 8, …]   DHT: questions and answers       (dht/overlay.py)
    0xD1 ‖ msgpack [kind, link 8, …]          ZeqMesh gossip between neighbours (dht/gossip.py)
    0xD2 ‖ msgpack [kind, transaction 8, …]   calls: homes and sealed events    (dht/calls.py)

At most 1,200 bytes each. Arrays, not maps: a field's place is its name, and later versions append. An answer
repeats the transaction of its question, eight random bytes: answers that nobody asked for are counted and
dropped. Every answer says where the question came from (`you`) and gives a token (dht/tokens.py); a question
that shows no valid token gets at most three times its own bytes back, so it is padded.

    tail    24 bytes of a node id (dht/contacts.py), or empty from who only asks (BEP 43)
    token   8 bytes that the other side gave before, or empty
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

DHT: Final = 0xD0
GOSSIP: Final = 0xD1
CALLS: Final = 0xD2
DATAGRAM_BYTES: Final = 1200
PADDED_BYTES: Final = 400  # a question without a token: three times this is any answer
AMPLIFICATION: Final = 3

Transaction = Annotated[bytes, Meta(min_length=8, max_length=8)]
Tail = Annotated[bytes, Meta(max_length=24)]
Token = Annotated[bytes, Meta(max_length=8)]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Seen = Annotated[bytes, Meta(min_length=6, max_length=18)]
Joined = Annotated[bytes, Meta(max_length=1100)]
Count = Annotated[int, Meta(ge=0, le=0xFFFF)]
Cookie = Annotated[bytes, Meta(min_length=8, max_length=8)]
Handle = Annotated[bytes, Meta(min_length=16, max_length=16)]


class _Message(msgspec.Struct, array_like=True, gc=False):
    pass


# ---------------------------------------------------------------------- DHT: questions


class Ping(_Message, tag=1):
    t: Transaction
    tail: Tail
    token: Token = b""
    pad: Joined = b""


class Find(_Message, tag=2):
    """The contacts closest to `target`."""

    t: Transaction
    tail: Tail
    token: Token
    target: Hash
    pad: Joined = b""


class Get(_Message, tag=3):
    """What is stored under `key`, from byte `offset` of it on, and the closest contacts."""

    t: Transaction
    tail: Tail
    token: Token
    key: Hash
    offset: Count = 0
    pad: Joined = b""


class Store(_Message, tag=4):
    """Part `part` of `parts` of one record; the token is required."""

    t: Transaction
    tail: Tail
    token: Token
    key: Hash
    part: Count
    parts: Count
    chunk: Joined


class Reach(_Message, tag=5):
    """Have somebody else send me a Reached: am I reachable? The token is required."""

    t: Transaction
    tail: Tail
    token: Token


class Dial(_Message, tag=6):
    """Send a Reached with transaction `nonce` to `whom`; between nodes that know each other's token."""

    t: Transaction
    tail: Tail
    token: Token
    whom: Seen
    nonce: Transaction


# ---------------------------------------------------------------------- DHT: answers


class Pong(_Message, tag=16):
    t: Transaction
    tail: Tail
    you: Seen
    token: Token


class Nodes(_Message, tag=17):
    """`contacts`: behind each other, of the family of the address that asked."""

    t: Transaction
    tail: Tail
    you: Seen
    token: Token
    contacts: Joined


class Values(_Message, tag=18):
    """A page: bytes from `offset` of the `total` that the records of the key take, msgpack's array of them.

    `digest` is of those bytes: pages of two states do not mix."""

    t: Transaction
    tail: Tail
    you: Seen
    token: Token
    contacts: Joined
    total: Annotated[int, Meta(ge=0, le=0xFFFFFF)]
    digest: Cookie
    offset: Count
    page: Joined


class Stored(_Message, tag=19):
    """`status`: 0 kept, 1 more parts are missing, 2 refused, 3 an older one than what is there, 4 no room.

    It answers a Reach too: 0 somebody has been asked to dial, 4 there is nobody to ask."""

    t: Transaction
    tail: Tail
    you: Seen
    token: Token
    status: Count


class Reached(_Message, tag=20):
    """What `Reach` leads to, from an address that has not been asked anything."""

    t: Transaction


# ---------------------------------------------------------------------- gossip between neighbours


class Open(_Message, tag=1):
    """Be my neighbour. `mine` goes into all that you send me: who cannot read it cannot forge it.

    `yours`: what an Opened that was not `taken` gave; a Close is the answer of who has no room."""

    mine: Cookie
    yours: Token = b""


class Opened(_Message, tag=2):
    """`taken`: we are neighbours. If not: say Open again with my cookie, so that your address is proven."""

    yours: Cookie
    mine: Cookie
    taken: bool


class Close(_Message, tag=3):
    yours: Cookie


class Push(_Message, tag=4):
    """A signed message (dht/gossip.py draws it)."""

    yours: Cookie
    message: Joined


class Have(_Message, tag=5):
    """Ids of messages that can be had here, 12 bytes each."""

    yours: Cookie
    ids: Joined


class Want(_Message, tag=6):
    yours: Cookie
    ids: Joined


class Prune(_Message, tag=7):
    """You need not push to me: I had it already. Ids will do."""

    yours: Cookie


class Graft(_Message, tag=8):
    """Push to me again."""

    yours: Cookie


class Digest(_Message, tag=9):
    """What I have, 64 sums (XOR) of 4 bytes: one for each value of the first six bits of an id."""

    yours: Cookie
    sums: Annotated[bytes, Meta(min_length=256, max_length=256)]


class Alive(_Message, tag=10):
    yours: Cookie
    answer: bool  # please do


# ---------------------------------------------------------------------- calls


class Lodge(_Message, tag=1):
    """Be my home: forward what comes for the handle that follows from `public` to this address, with my token
    `mine`. `proof` signs your token, so it is good from this address only; `public` and `proof` are empty
    while I have none. `leave`: forget me."""

    t: Transaction
    token: Token
    mine: Token
    public: Annotated[bytes, Meta(max_length=32)] = b""
    sequence: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    proof: Annotated[bytes, Meta(max_length=64)] = b""
    leave: bool = False


class Event(_Message, tag=2):
    """Part `part` of `parts` of a sealed event for who lodges under `handle`; 16 zero bytes: for the receiver
    itself. Without a chunk it only asks how things stand."""

    t: Transaction
    token: Token
    handle: Handle
    event: Transaction
    part: Count
    parts: Count
    chunk: Joined


class Lodged(_Message, tag=16):
    """`status`: 0 yes, 1 no room, 2 show this token first."""

    t: Transaction
    token: Token
    status: Count
    lease: Count = 0  # seconds


class Taken(_Message, tag=17):
    """`status`: 0 parts are missing, 1 delivered, 2 held for later, 3 nobody of that handle, 4 refused,
    5 show this token first, 6 complete and under way. `have`: a bit for each part that is here. `receipt`:
    of who opened it (crypto/sealed.py)."""

    t: Transaction
    token: Token
    status: Count
    have: Count = 0
    receipt: Annotated[bytes, Meta(max_length=8)] = b""


DhtMessage: TypeAlias = Ping | Find | Get | Store | Reach | Dial | Pong | Nodes | Values | Stored | Reached
GossipMessage: TypeAlias = Open | Opened | Close | Push | Have | Want | Prune | Graft | Digest | Alive
CallMessage: TypeAlias = Lodge | Event | Lodged | Taken

_encode = msgspec.msgpack.Encoder().encode
_M = TypeVar("_M")


def _reader(decode: Callable[[bytes], _M]) -> Callable[[bytes], _M]:
    def read(data: bytes) -> _M:
        try:
            return decode(data)
        except RecursionError as error:  # 1,000 arrays in each other, in a field that is read past
            raise msgspec.DecodeError("nested too deeply") from error

    return read


decode_dht: Callable[[bytes], DhtMessage] = _reader(msgspec.msgpack.Decoder(DhtMessage).decode)
"""Of a datagram's bytes after the first. Raises msgspec.MsgspecError (and so ValueError) on anything else."""
decode_gossip: Callable[[bytes], GossipMessage] = _reader(msgspec.msgpack.Decoder(GossipMessage).decode)
decode_call: Callable[[bytes], CallMessage] = _reader(msgspec.msgpack.Decoder(CallMessage).decode)


def encode_dht(message: DhtMessage) -> bytes:
    """The datagram."""
    return b"\xd0" + _encode(message)


def encode_gossip(message: GossipMessage) -> bytes:
    return b"\xd1" + _encode(message)


def encode_call(message: CallMessage) -> bytes:
    return b"\xd2" + _encode(message)
