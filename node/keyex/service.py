"""ZeqKeyEx as a service: this machine's published key, other machines' keys, and handshakes with either.

    our own slug     answered here
    another's        asked of it: a sealed event there and one back (node/asking.py), wherever it is

    keyex.pubkey     nothing ─▶ msgpack [public key 1,184, signature 64]
    keyex.handshake  ciphertext 1,088 ─▶ msgpack [session 16, confirmation 48, expires at zeqond]

The key is made when it is first asked for. Its 64 secret bytes are in the vault as the machine's own, so that
nobody can have them through the API, and no tunnel rests on them (crypto/keyex.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
import trio
from msgspec import Meta

from crypto import keyex
from crypto.errors import HandshakeRefused
from crypto.identity import SIGNATURE_BYTES, KeyBundle, MachineKeys, slug
from crypto.kem import KEM_CIPHERTEXT_BYTES, KEM_PUBLIC_BYTES, KEM_SEED_BYTES, RealPrimitives
from crypto.keyex import CONFIRMATION_BYTES, Agreed, Published, Responder
from dht.calls import Recipient
from node.answering import Answering, Declined
from node.asking import Asking, AskRefused
from node.keyex.directory import Directory
from node.keyex.errors import BadRequest, FalseKey
from node.keyex.sessions import SESSION_ID_BYTES, Sessions
from node.vault.errors import NoSuchSecret
from node.vault.secrets import Secrets, zeqond_now

KEM_PURPOSE: Final = "keyex.ml-kem.seed"
PUBKEY: Final = "keyex.pubkey"
HANDSHAKE: Final = "keyex.handshake"


@dataclass(frozen=True)
class Confirmed:
    """A handshake that the machine has taken. `confirmation`: 48 bytes that open under the record key.
    `session_id`: 16 bytes, under which that machine has the key until `expires_zeqond`."""

    machine_id: bytes
    session_id: bytes
    confirmation: bytes
    expires_zeqond: int


class _Key(msgspec.Struct, array_like=True, frozen=True):
    public: Annotated[bytes, Meta(min_length=KEM_PUBLIC_BYTES, max_length=KEM_PUBLIC_BYTES)]
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


class _Taken(msgspec.Struct, array_like=True, frozen=True):
    session_id: Annotated[bytes, Meta(min_length=SESSION_ID_BYTES, max_length=SESSION_ID_BYTES)]
    confirmation: Annotated[bytes, Meta(min_length=CONFIRMATION_BYTES, max_length=CONFIRMATION_BYTES)]
    expires_zeqond: Annotated[int, Meta(ge=0, le=2**62)]


_encode = msgspec.msgpack.Encoder().encode
_decode_key = msgspec.msgpack.Decoder(_Key).decode
_decode_taken = msgspec.msgpack.Decoder(_Taken).decode


class KeyExchange:
    """Answers both questions from the moment that it is made."""

    def __init__(
        self,
        keys: MachineKeys,
        secrets: Secrets,
        directory: Directory,
        asking: Asking,
        answering: Answering,
    ) -> None:
        self.own_slug: Final = slug(keys.machine_id)
        self.machine_id: Final = keys.machine_id
        self._keys = keys
        self._secrets = secrets
        self._directory = directory
        self._asking = asking
        self._sessions = Sessions()
        self._responder: Responder | None = None
        self._making = trio.Lock()
        answering.handle(PUBKEY, self._on_pubkey)
        answering.handle(HANDSHAKE, self._on_handshake)

    async def pubkey(self, name: str) -> Published:
        """The key of a machine, this one or another, with the machine's signature looked at. Raises what
        `Directory` raises, Unanswered, AskRefused, FalseKey."""
        bundle = await self._other(name)
        if bundle is None:
            return (await self._own()).published
        return await self.published_by(await self._directory.recipient(bundle))

    async def published_by(self, machine: Recipient) -> Published:
        """As `pubkey`, of another machine that has been looked up."""
        machine_id = machine.bundle.machine_id
        answer = await self._asking.ask(machine, PUBKEY, b"")
        try:
            key = _decode_key(answer)
            published = Published(machine_id, key.public, key.signature)
            published.check(machine.bundle, None)
        except (msgspec.MsgspecError, HandshakeRefused) as error:
            raise FalseKey(f"{slug(machine_id)} showed a key that is not signed by it") from error
        return published

    async def handshake(self, name: str, cipher_text: bytes) -> Confirmed:
        """Have a machine, this one or another, decapsulate what was encapsulated to its published key. Raises
        BadRequest, and as `pubkey`."""
        if len(cipher_text) != KEM_CIPHERTEXT_BYTES:
            raise BadRequest(f"cipher_text has {KEM_CIPHERTEXT_BYTES} bytes, not {len(cipher_text)}")
        bundle = await self._other(name)
        if bundle is None:
            return await self._take(cipher_text, self.machine_id)
        answer = await self._asking.ask(await self._directory.recipient(bundle), HANDSHAKE, cipher_text)
        try:
            taken = _decode_taken(answer)
        except msgspec.MsgspecError as error:
            raise AskRefused(f"{name} gave an answer that cannot be read", "PEER_FAILED") from error
        return Confirmed(bundle.machine_id, taken.session_id, taken.confirmation, taken.expires_zeqond)

    async def agreed(self, cipher_text: bytes) -> Agreed:
        """What this machine has in common with whoever made the ciphertext. Raises BadRequest."""
        try:
            return (await self._own()).respond(cipher_text)
        except HandshakeRefused as error:
            raise BadRequest(f"{error}") from error

    def session_key(self, session_id: bytes) -> bytes:
        """The record key, 32 bytes, of a handshake that this machine has taken. Raises NoSession."""
        return self._sessions.key(session_id, zeqond_now())

    async def _other(self, name: str) -> KeyBundle | None:
        """The machine that is meant; None for this one."""
        if name == self.own_slug:
            return None
        bundle = await self._directory.named(name)
        return bundle if bundle.machine_id != self.machine_id else None

    async def _take(self, cipher_text: bytes, by: bytes) -> Confirmed:
        agreed = await self.agreed(cipher_text)
        session_id = agreed.transcript[:SESSION_ID_BYTES]
        session = self._sessions.add(session_id, agreed.record_key, by, zeqond_now())
        return Confirmed(self.machine_id, session_id, agreed.confirmation, session.expires_zeqond)

    async def _own(self) -> Responder:
        """Read from the vault once, so that strangers' questions leave nothing in its audit."""
        async with self._making:
            if self._responder is None:
                self._responder = Responder(self._keys, await self._seed())
            return self._responder

    async def _seed(self) -> bytes:
        by = self._secrets.machine
        try:
            return await self._secrets.get(KEM_PURPOSE, by=by)
        except NoSuchSecret:
            seed = os.urandom(KEM_SEED_BYTES)
            await self._secrets.put(KEM_PURPOSE, seed, by=by)
            return seed

    async def _on_pubkey(self, author: KeyBundle, _payload: bytes) -> bytes:
        self._directory.meet(author)
        published = (await self._own()).published
        return _encode(_Key(published.public, published.signature))

    async def _on_handshake(self, author: KeyBundle, payload: bytes) -> bytes:
        try:
            taken = await self._take(payload, author.machine_id)
        except BadRequest as error:
            raise Declined(error.code) from error
        return _encode(_Taken(taken.session_id, taken.confirmation, taken.expires_zeqond))


def initiated(published: Published) -> tuple[Agreed, bytes]:
    """Both sides' secret, and the ciphertext that gives it to the other. Raises FalseKey."""
    try:
        return keyex.initiate(published, RealPrimitives())
    except HandshakeRefused as error:
        raise FalseKey(f"{slug(published.machine_id)} published a key that is none: {error}") from error
