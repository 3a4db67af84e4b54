"""The strongest reader of a DHT: asks every node, opens every shelf, keeps every datagram, guesses every id.

    one address ─ Find, Find … ─▶ all nodes ─ Get of each key, page by page ─▶ records, as the wire has them

It holds no secret. Which keys there are is more than a stranger can learn: the test takes them from the
nodes' own shelves, so that nothing is missed. What it looks for in the bytes are the values that mean one
machine, and it is told everybody's, those of unlisted machines too, as if it had guessed them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import count
from types import TracebackType

import msgspec
import trio

from crypto.identity import KeyBundle, fingerprint, slug, ula
from dht import contacts, endpoints, locations, offers, records, slugs
from dht.contacts import Contact
from dht.endpoints import IPV4_BYTES, Endpoint
from dht.locations import Locator, listed_secret
from dht.messages import PADDED_BYTES, Find, Get, Nodes, Values, decode_dht, encode_dht
from dht.records import Kind, Records
from dht.signatures import Ed25519Signatures

PATIENCE_S = 1.0
TRIES = 5
SHINGLE = 8  # bytes: any 15 in a row of a value have one of these at a multiple of 8, wherever they lie
PAD = bytes(PADDED_BYTES)
NOBODY = bytes(8)  # until the question is sent
_SLUG = re.compile(rb"ZEQ07[0-9]{9}")


class Crawler:
    """A stranger with one socket, who only asks. `host`: its loopback address."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._socket = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        self._tokens: dict[Endpoint, bytes] = {}
        self._numbers = count(1)

    async def __aenter__(self) -> Crawler:
        await self._socket.bind((self._host, 0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    async def walk(self, first: Endpoint) -> dict[Endpoint, Contact]:
        """Every node that somebody names, asked for its whole table: its own place, and 16 directions."""
        found: dict[Endpoint, Contact] = {}
        waiting = [first]
        asked: set[Endpoint] = set()
        while waiting:
            endpoint = waiting.pop()
            asked.add(endpoint)
            for direction in range(16):
                target = bytes([direction << 4]) + bytes(31)
                answer = await self._ask(endpoint, Find(NOBODY, b"", b"", target, PAD))
                assert isinstance(answer, Nodes)
                named = contacts.split(answer.contacts, contacts.TAIL_BYTES + IPV4_BYTES)
                if answer.tail:  # else it only asks
                    named.append(contacts.at(answer.tail, endpoint))
                found.update((one.endpoint, one) for one in named)
            waiting = [one for one in found if one not in asked]
        return found

    async def read(self, endpoint: Endpoint, key: bytes) -> list[bytes]:
        """All records that the node gives for the key."""
        whole = b""
        while True:
            answer = await self._ask(endpoint, Get(NOBODY, b"", b"", key, len(whole), PAD))
            if not isinstance(answer, Values):
                return []
            whole += answer.page
            if len(whole) >= answer.total:
                found: list[bytes] = msgspec.msgpack.decode(whole, type=list[bytes])
                return found

    async def _ask(self, endpoint: Endpoint, question: Find | Get) -> Nodes | Values:
        """The answer; the question's transaction and token are filled in."""
        for _ in range(TRIES):
            transaction = next(self._numbers).to_bytes(8, "big")
            token = self._tokens.get(endpoint, b"")
            whole = msgspec.structs.replace(question, t=transaction, token=token)
            await self._socket.sendto(encode_dht(whole), endpoints.unpack(endpoint))
            with trio.move_on_after(PATIENCE_S):
                while True:
                    said, source = await self._socket.recvfrom(2048)
                    answer = decode_dht(said[1:])
                    if answer.t == transaction and isinstance(answer, Nodes | Values):
                        assert endpoints.pack(*source) == endpoint
                        self._tokens[endpoint] = answer.token
                        return answer
        raise AssertionError(f"{endpoints.text(endpoint)} does not answer")


def values_of(bundle: KeyBundle) -> Iterator[bytes]:
    """Everything that leads from bytes to this machine without a secret: its keys, its names, and what any
    of today's (or tomorrow's) public keys in the DHT would be if it were listed."""
    machine_id = bundle.machine_id
    yield machine_id
    yield bundle.to_bytes()
    yield sha256(bundle.to_bytes()).digest()
    yield sha256(machine_id).digest()
    yield listed_secret(machine_id)
    yield ula(machine_id).packed
    yield fingerprint(machine_id).encode()
    yield fingerprint(machine_id).replace("-", "").encode()
    yield machine_id.hex().encode()
    yield records.slug_key(slug(machine_id))
    today = int(time.time()) // locations.DAY_S
    for day in (today - 1, today, today + 1):
        for kind in (Kind.LOCATION, Kind.BUNDLE):
            locator = Locator(kind, machine_id, listed_secret(machine_id), day)
            yield locator.key
            yield locator.seal(b"", 10**9).public


class Index:
    """Finds in any bytes which machines' values (named by what they are filed under) are there."""

    def __init__(self, machines: Iterable[KeyBundle]) -> None:
        self._of: dict[bytes, bytes] = {}
        self._slugs: dict[bytes, bytes] = {}
        for bundle in machines:
            self._slugs[slug(bundle.machine_id).encode()] = bundle.machine_id
            for value in values_of(bundle):
                self.add(value, bundle.machine_id)

    def add(self, value: bytes, name: bytes) -> None:
        assert len(value) >= 2 * SHINGLE - 1
        for at in range(len(value) - SHINGLE + 1):
            self._of[value[at : at + SHINGLE]] = name

    def found_in(self, data: Sequence[bytes]) -> set[bytes]:
        """The machine_ids whose values, or 15 bytes in a row of them, are in the data; or whose slug is."""
        whole = b"\0".join(data)
        found = {name for name in map(self._of.get, _chunks(whole)) if name is not None}
        found.update(self._slugs[one] for one in _SLUG.findall(whole) if one in self._slugs)
        return found


def _chunks(whole: bytes) -> Iterator[bytes]:
    return (whole[at : at + SHINGLE] for at in range(0, len(whole), SHINGLE))


def read_by_a_stranger(raws: Iterable[bytes], machines: Iterable[KeyBundle]) -> dict[bytes, set[Kind]]:
    """machine_id -> what kinds of record tell of it to somebody who has guessed the machine_ids of all, and
    knows no secret. Every record is read whole, its signature too; raises BadRecord."""
    reader = Records(Ed25519Signatures())
    today = int(time.time()) // locations.DAY_S
    guesses = {}
    for bundle in machines:
        for kind in (Kind.LOCATION, Kind.BUNDLE):
            for day in (today - 1, today, today + 1):
                guess = Locator(kind, bundle.machine_id, listed_secret(bundle.machine_id), day)
                guesses[guess.key] = guess
    told: dict[bytes, set[Kind]] = {}
    for raw in raws:
        record = reader.parse(raw)
        if record.kind is Kind.OFFER:
            machine_id = offers.read(record).machine_id
        elif record.kind is Kind.SLUG:
            machine_id = slugs.read(record).machine_id
        elif record.key in guesses:
            guesses[record.key].open(raw)
            machine_id = guesses[record.key].machine_id
        else:
            continue
        told.setdefault(machine_id, set()).add(record.kind)
    return told
