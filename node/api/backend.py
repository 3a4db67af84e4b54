"""What the API asks of the node: the endpoints check form and rights, and this does what they say.

Sums are whole ZEQ but for names that end in `_millionths`. A tunnel_id has 16 bytes, a machine_id 32. Times
are zeqonds. Whatever cannot be done is raised: an ApiFault of node/api/faults.py, or any exception with a
`status` and a `code`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

TUNNELS_MAX: Final = 100


class State(StrEnum):
    """Of a tunnel."""

    PENDING = "pending"
    ACTIVE = "active"
    TERMINATED = "terminated"
    EXPIRED = "expired"
    REFUSED = "refused"


@dataclass(frozen=True)
class Caller:
    """Who asks: the holder of this token, or of a session that was begun with it."""

    token_id: str
    name: str
    may_write: bool


@dataclass(frozen=True, kw_only=True)
class TunnelRequest:
    """`target_slug` as the caller wrote it: see `split_name`. `pricing_unit`: "gb" or "zeqond"."""

    requester_slug: str
    target_slug: str
    requested_lifespan_zeqonds: int
    pricing_unit: str


@dataclass(frozen=True, kw_only=True)
class Requested:
    """`rate_zeq_per_unit`: for 10⁹ bytes or a zeqond; `balance_zeq`: what the target lets us use, whole ZEQ
    of it; `subscribers_notified`: machines to which the request went, itself or by their homes."""

    tunnel_id: bytes
    state: State
    rate_zeq_per_unit: int
    min_required_zeq: int
    balance_zeq: int
    subscribers_notified: int


@dataclass(frozen=True, kw_only=True)
class Accepted:
    tunnel_id: bytes
    state: State
    started_at_zeqond: int


@dataclass(frozen=True, kw_only=True)
class Terminated:
    """The figures that stand, whatever the caller claimed. `total_zeq_charged` is rounded up to whole ZEQ;
    `charged_millionths` is exact, as a tunnel that did not end in agreement is paid pro rata."""

    tunnel_id: bytes
    state: State
    cumulative_bytes: int
    cumulative_zeqonds: int
    total_zeq_charged: int
    charged_millionths: int
    ended_at_zeqond: int


@dataclass(frozen=True, kw_only=True)
class TunnelInfo:
    """A row of the list. `code`: why it was refused, or "". `peer_fingerprint`: of the other side."""

    tunnel_id: bytes
    state: State
    requester_slug: str
    accepter_slug: str
    peer_fingerprint: str
    pricing_unit: str
    rate_zeq_per_unit: int
    requested_lifespan_zeqonds: int
    created_at_zeqond: int
    started_at_zeqond: int | None = None
    ended_at_zeqond: int | None = None
    cumulative_bytes: int = 0
    cumulative_zeqonds: int = 0
    charged_millionths: int = 0
    code: str = ""


@dataclass(frozen=True, kw_only=True)
class ListOffer:
    """What the owner offers; not `active`: no longer."""

    slug: str
    price_per_gb_zeq: int
    price_per_zeqond_zeq: int
    max_concurrent_tunnels: int
    accept_country_classes: tuple[str, ...]
    country: str
    active: bool


@dataclass(frozen=True, kw_only=True)
class OfferInfo:
    """`proven`: signed by the machine that it names. `reachable`, `rtt_ms`: what this node found when it
    tried, None where it did not. `tier`: of trust, from receipts that this node can verify itself."""

    slug: str
    fingerprint: str
    price_per_gb_zeq: int
    price_per_zeqond_zeq: int
    max_concurrent_tunnels: int
    accept_country_classes: tuple[str, ...]
    country: str
    active: bool
    proven: bool
    reachable: bool | None = None
    rtt_ms: float | None = None
    tier: int | None = None


@dataclass(frozen=True, kw_only=True)
class KeyexKey:
    """A machine's published ML-KEM-768 key, 1,184 bytes; `fingerprint`: 64 hex digits of its SHA-256."""

    public_key: bytes
    fingerprint: str
    machine_id: bytes


@dataclass(frozen=True, kw_only=True)
class KeyexAnswer:
    """`key_confirmation`: 48 bytes, sealed under the record key that both sides now have."""

    key_confirmation: bytes
    machine_id: bytes


@dataclass(frozen=True, kw_only=True)
class SslInitiated:
    """`cipher_text`: 1,088 bytes, for the other side's `respond`; `seed_commitment`: 64 hex digits."""

    cipher_text: bytes
    seed_commitment: str
    peer_machine_id: bytes
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class SslResponded:
    seed_commitment: str
    peer_machine_id: bytes


@dataclass(frozen=True, kw_only=True)
class Pohc:
    """A machine's tier of trust, and how it comes about: a sentence, and the numbers that went into it."""

    slug: str
    tier: int
    score: int
    how: str
    inputs: Mapping[str, int]


@dataclass(frozen=True)
class Happening:
    """Something that the owner may want to see live; `kind` as "vpn.tunnel.accepted"."""

    kind: str
    fields: Mapping[str, str | int | bool | None] = field(default_factory=dict)


class Backend(Protocol):
    """The node, for the API. Slugs that must be this node's have been compared with `own_slugs`; those of
    other machines may have a piece of the fingerprint with them (`split_name`)."""

    def own_slugs(self) -> frozenset[str]: ...

    async def request_tunnel(self, request: TunnelRequest) -> Requested: ...

    async def accept(self, tunnel_id: bytes, accepter_slug: str) -> Accepted: ...

    async def terminate(
        self, tunnel_id: bytes, terminator_slug: str, cumulative_bytes: int, cumulative_zeqonds: int
    ) -> Terminated:
        """The same answer however often it is asked."""

    async def tunnels(self, slug: str) -> list[TunnelInfo]:
        """The newest first, at most TUNNELS_MAX."""

    async def marketplace(self, country: str | None, max_zeq_per_gb: int | None) -> list[OfferInfo]: ...

    async def list_offer(self, offer: ListOffer) -> OfferInfo: ...

    async def keyex_pubkey(self, slug: str) -> KeyexKey: ...

    async def keyex_handshake(self, slug: str, cipher_text: bytes) -> KeyexAnswer: ...

    async def ssl_initiate(
        self, local_machine: str, peer_origin: str, peer_machine: str, expected_fingerprint: str
    ) -> SslInitiated: ...

    async def ssl_respond(
        self, local_machine: str, peer_machine: str, cipher_text: bytes
    ) -> SslResponded: ...

    async def secret(self, purpose: str, caller: Caller) -> bytes: ...

    async def pohc(self, slug: str | None) -> Pohc:
        """Of this node where no slug is given."""

    def events(self) -> AsyncGenerator[Happening, None]:
        """From now on, until it is closed."""


def split_name(text: str) -> tuple[str, str]:
    """The slug in "ZEQ07000000001~abcd-efgh-ijkl-mnop", and the beginning of the fingerprint, which are 16 to
    52 small letters and digits; "" where only the slug was given."""
    slug, _, beginning = text.partition("~")
    return slug, beginning.replace("-", "")
