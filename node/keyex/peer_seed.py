"""The first Mode-B seed of two machines (ZeqSSL), as the seeds' two endpoints have it.

    initiate   here    fetch the other's key, hold it against the pin, encapsulate ─▶ ciphertext, commitment
    respond    there   the ciphertext, brought by the person who runs both         ─▶ the same commitment

Both keep the seed, 32 bytes, in the vault as `ssl.mode-b.<machine_id of the other, in hex>.seed`, the owner's
to have; node/zeqssl.py makes streams of it. A new seed takes the place of the last one at once, on each side
when it is there, so streams open again when both commitments are equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from crypto.identity import KeyBundle, slug
from crypto.keyex import FingerprintMismatch, Published, commitment
from dht import endpoints
from node.keyex.directory import Directory
from node.keyex.errors import InvalidTarget, NotOurs, PinMismatch
from node.keyex.origin import check_origin
from node.keyex.service import KeyExchange, initiated
from node.vault.secrets import Secrets
from node.zeqssl import Shared


@dataclass(frozen=True)
class Initiated:
    """`cipher_text`: 1,088 bytes for the other side's `respond`. `seed_commitment`, `fingerprint`: 64 hex
    digits; the fingerprint is that of the other's key."""

    cipher_text: bytes
    seed_commitment: str
    peer_machine_id: bytes
    fingerprint: str


@dataclass(frozen=True)
class Responded:
    """`seed_commitment`: 64 hex digits, those of the other side if both have the same seed."""

    seed_commitment: str
    peer_machine_id: bytes


def purpose(machine_id: bytes) -> str:
    """The name in the vault of the seed that is shared with a machine."""
    return f"ssl.mode-b.{machine_id.hex()}.seed"


class PeerSeeds:
    def __init__(self, exchange: KeyExchange, directory: Directory, secrets: Secrets) -> None:
        self._exchange = exchange
        self._directory = directory
        self._secrets = secrets

    async def initiate(
        self, local_machine: str, peer_origin: str, peer_machine: str, expected_fingerprint: str
    ) -> Initiated:
        """Raises NotOurs, InvalidTarget, BadRequest and OriginMismatch (node/keyex/origin.py), PinMismatch,
        and as `KeyExchange.pubkey`; nothing is kept then."""
        bundle = await self._other(local_machine, peer_machine)
        machine = await self._directory.recipient(bundle)
        hosts = [endpoints.unpack(each)[0] for each in machine.endpoints]
        check_origin(peer_origin, slug(bundle.machine_id), hosts)
        published = await self._exchange.published_by(machine)
        _check_pin(published, bundle, expected_fingerprint)
        agreed, cipher_text = initiated(published)
        seed = agreed.mode_b_seed(self._exchange.machine_id, bundle.machine_id)
        await self._keep(bundle, seed)
        return Initiated(cipher_text, commitment(seed), bundle.machine_id, published.fingerprint)

    async def respond(self, local_machine: str, peer_machine: str, cipher_text: bytes) -> Responded:
        """Raises NotOurs, InvalidTarget, BadRequest, and what `Directory.named` raises. A ciphertext that was
        made for another key gives a seed that nobody else has: the commitments differ."""
        bundle = await self._other(local_machine, peer_machine)
        agreed = await self._exchange.agreed(cipher_text)
        seed = agreed.mode_b_seed(bundle.machine_id, self._exchange.machine_id)
        await self._keep(bundle, seed)
        return Responded(commitment(seed), bundle.machine_id)

    async def shared(self, machine_id: bytes) -> Shared:
        """For a stream with that machine. Raises NoSuchSecret before a seed is agreed on."""
        seed = await self._secrets.get(purpose(machine_id), by=self._secrets.owner)
        return Shared.of(self._exchange.machine_id, machine_id, seed)

    async def _other(self, local_machine: str, peer_machine: str) -> KeyBundle:
        own = self._exchange.own_slug
        if local_machine != own:
            raise NotOurs(f"local_machine is {own} here, not {local_machine[:80]!r}")
        bundle = await self._directory.named(peer_machine) if peer_machine != own else None
        if bundle is None or bundle.machine_id == self._exchange.machine_id:
            raise InvalidTarget("peer_machine is another machine than local_machine: name the other one")
        return bundle

    async def _keep(self, bundle: KeyBundle, seed: bytes) -> None:
        await self._secrets.put(purpose(bundle.machine_id), seed, by=self._secrets.owner)


def _check_pin(published: Published, bundle: KeyBundle, expected: str) -> None:
    try:
        published.check(bundle, expected)
    except FingerprintMismatch as error:
        raise PinMismatch(error.fingerprint) from error
