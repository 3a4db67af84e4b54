"""Bodies, parameters and answers, as FastAPI checks them and the OpenAPI document describes them.

Types are strict: a boolean is no integer, 1.0 is none, "1" is none, and a field that is not known is refused.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from crypto.identity import MACHINE_ID_BYTES
from crypto.kem import KEM_CIPHERTEXT_BYTES
from crypto.keyex import ALG
from dht.offers import MAX_AMOUNT, MAX_CLASSES
from node.api.backend import State
from node.settlement.terms import LEAST_LIFESPAN, MAX_LIFESPAN

MAX_CLAIM: Final = 2**53 - 1  # what every reader of JSON holds exactly
PURPOSE_BYTES_MAX: Final = 255

_ID: Final = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_HEX: Final = rf"^[0-9a-f]{{{2 * MACHINE_ID_BYTES}}}$"
# 1,088 bytes: 1,450 characters, one of which only four bits count, and one "=".
_CIPHER_CHARS: Final = (KEM_CIPHERTEXT_BYTES + 2) // 3 * 4
_CIPHER_TEXT: Final = rf"^[A-Za-z0-9+/]{{{_CIPHER_CHARS - 2}}}[AEIMQUYcgkosw048]=$"


def _number(value: object) -> object:
    """Of a query: digits and nothing else, where pydantic would take " 1", "1_0" and "1.0", too."""
    if isinstance(value, str) and not re.fullmatch("[0-9]{1,19}", value):
        raise PydanticCustomError("whole_number", "must be a whole number")
    return value


def _false(value: bool) -> bool:
    """Checked by the endpoint, which answers UNSUPPORTED; the document says that only false is taken."""
    return value


def _different(values: list[str]) -> list[str]:
    if len(set(values)) != len(values):
        raise PydanticCustomError("unique", "must name each class once")
    return values


def _short(value: str) -> str:
    if len(value.encode()) > PURPOSE_BYTES_MAX:
        raise PydanticCustomError("short", "must have at most 255 bytes in UTF-8")
    return value


Slug = Annotated[
    str, Field(pattern="^ZEQ07[0-9]{9}$", description="A machine's slug.", examples=["ZEQ07000000001"])
]
Name = Annotated[
    str,
    Field(
        pattern="^ZEQ07[0-9]{9}(~[a-z2-7]{4}(-[a-z2-7]{4}){3,12})?$",
        description="A slug; for a machine that is not pinned yet with the first 16 characters of its "
        "fingerprint, or more.",
        examples=["ZEQ07000000007", "ZEQ07000000007~abcd-efgh-ijkl-mnop"],
    ),
]
TunnelId = Annotated[
    str,
    Field(
        pattern=_ID, description="A UUID in small letters.", examples=["8f7e6d5c-1a2b-4c3d-8e9f-0a1b2c3d4e5f"]
    ),
]
Country = Annotated[
    str, Field(pattern="^([A-Z]{2}|ANY)$", description="An ISO 3166 code, EU, or ANY.", examples=["EU"])
]
CipherText = Annotated[
    str,
    Field(
        pattern=_CIPHER_TEXT,
        description=f"{ALG} ciphertext, {KEM_CIPHERTEXT_BYTES:,} bytes in base64 (RFC 4648 section 4).",
        examples=["A" * (_CIPHER_CHARS - 1) + "="],
    ),
]
Fingerprint = Annotated[
    str,
    Field(
        pattern="^[0-9A-Fa-f]{64}$",
        description=f"SHA-256 of the {ALG} public key in hex, as its owner told it by another way.",
        examples=["0" * 64],
    ),
]
Origin = Annotated[
    str,
    Field(
        pattern=r"^https?://[A-Za-z0-9.:\[\]-]{1,255}/?$",
        description="Compared with what is known of the peer, never dialled.",
        examples=["https://198.51.100.7"],
    ),
]
Purpose = Annotated[
    str,
    Field(
        min_length=1,
        max_length=PURPOSE_BYTES_MAX,
        pattern="^[^/]*$",
        description="The secret's name in the vault.",
        examples=["vpn.tunnel.8f7e6d5c-1a2b-4c3d-8e9f-0a1b2c3d4e5f.key"],
    ),
    AfterValidator(_short),
]
Amount = Annotated[int, Field(ge=0, le=MAX_AMOUNT)]
Places = Annotated[int, Field(ge=1, le=MAX_AMOUNT)]
AmountText = Annotated[Amount, BeforeValidator(_number)]
Claimed = Annotated[int, Field(ge=0, le=MAX_CLAIM)]
NotYet = Annotated[bool, AfterValidator(_false), WithJsonSchema({"type": "boolean", "const": False})]
Classes = Annotated[
    list[Country],
    Field(min_length=1, max_length=MAX_CLASSES, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_different),
]


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class HandshakeRequest(Asked):
    requester_slug: Slug
    target_slug: Name
    requested_lifespan_zeqonds: Annotated[int, Field(ge=LEAST_LIFESPAN, le=MAX_LIFESPAN)]
    cover_traffic: NotYet = False
    multi_hop: NotYet = False
    pricing_unit: Literal["gb", "zeqond"]


class HandshakeAccept(Asked):
    tunnel_id: TunnelId
    accepter_slug: Slug


class Terminate(Asked):
    terminator_slug: Slug
    cumulative_bytes: Claimed
    cumulative_zeqonds: Claimed


class MarketListing(Asked):
    slug: Slug
    price_per_gb_zeq: Amount
    price_per_zeqond_zeq: Amount
    max_concurrent_tunnels: Places
    accept_country_classes: Classes
    country: Annotated[str, Field(pattern="^([A-Z]{2})?$", description="Where it stands, if it says so.")] = (
        ""
    )
    active: Annotated[bool, Field(description="false: unlist it.")]


class KeyexHandshake(Asked):
    cipher_text: CipherText


class SslInitiate(Asked):
    local_machine: Slug
    peer_origin: Origin
    peer_machine: Name
    expected_fingerprint: Fingerprint


class SslRespond(Asked):
    local_machine: Slug
    peer_machine: Name
    cipher_text: CipherText


class TunnelsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    slug: Slug


class MarketQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    country: Annotated[
        Country | SkipJsonSchema[None], Field(description="Its own class, ANY, or EU of a member.")
    ] = None
    max_zeq_per_gb: Annotated[AmountText | SkipJsonSchema[None], Field(description="The highest price.")] = (
        None
    )


class PohcQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    slug: Annotated[Name | SkipJsonSchema[None], Field(description="This node, where it is left out.")] = None


class Timed(BaseModel):
    """What every answer has."""

    zeqond: Annotated[int, Field(description="⌊Unix milliseconds / 777⌋")]
    phase: Annotated[float, Field(ge=0, lt=1, description="How far into the zeqond, to four decimals.")]


class Answer(Timed):
    ok: Literal[True] = True


class Claim(BaseModel):
    fingerprint: str
    slug: Slug


class Error(Timed):
    """`claims` only with SLUG_UNPINNED: the machines that call themselves so."""

    error: Annotated[str, Field(description="A sentence for people.")]
    code: Annotated[str, Field(description="For programs.", examples=["INVALID_REQUEST"])]
    claims: list[Claim] | None = None


class Requested(Answer):
    tunnel_id: TunnelId
    state: State
    key_purpose_id: Annotated[str, Field(description="Of the exporter secret in each side's own vault.")]
    rate_zeq_per_unit: int
    min_required_zeq: Annotated[int, Field(description="100 × the rate: a floor of credit, not a price.")]
    balance_zeq: Annotated[int, Field(description="What the target lets this node use.")]
    subscribers_notified: int
    pulse_hz: float


class Accepted(Answer):
    tunnel_id: TunnelId
    state: State
    key_purpose_id: str
    started_at_zeqond: int
    encrypted_key_fetch_url: str


class Terminated(Answer):
    tunnel_id: TunnelId
    state: State
    cumulative_bytes: int
    cumulative_zeqonds: int
    total_zeq_charged: Annotated[int, Field(description="Rounded up to whole ZEQ.")]
    charged_millionths: Annotated[int, Field(description="Exact, in millionths of a ZEQ.")]
    ended_at_zeqond: int


class Tunnel(BaseModel):
    tunnel_id: TunnelId
    state: State
    requester_slug: Slug
    accepter_slug: Slug
    peer_fingerprint: str
    pricing_unit: Literal["gb", "zeqond"]
    rate_zeq_per_unit: int
    requested_lifespan_zeqonds: int
    key_purpose_id: str
    created_at_zeqond: int
    started_at_zeqond: int | None
    ended_at_zeqond: int | None
    cumulative_bytes: int
    cumulative_zeqonds: int
    charged_millionths: int
    code: Annotated[str, Field(description="Why it was refused, or empty.")]


class Tunnels(Answer):
    slug: Slug
    tunnels: list[Tunnel]


class Offer(BaseModel):
    slug: Slug
    fingerprint: str
    price_per_gb_zeq: int
    price_per_zeqond_zeq: int
    max_concurrent_tunnels: int
    accept_country_classes: list[str]
    country: Annotated[str, Field(description="As the relay says, or empty.")]
    active: bool
    proven: Annotated[bool, Field(description="Signed by the machine that it names.")]
    reachable: Annotated[bool | None, Field(description="As this node found; null: not tried.")]
    rtt_ms: float | None
    tier: Annotated[int | None, Field(description="Of trust; see /api/protocol/pohc.")]


class Market(Answer):
    offers: list[Offer]


class Listed(Answer):
    offer: Offer


class PublicKey(Timed):
    public_key: Annotated[str, Field(description="1,184 bytes in base64.")]
    fingerprint: Annotated[str, Field(pattern=_HEX, description="SHA-256 of the key.")]
    machine_id: Annotated[str, Field(pattern=_HEX)]
    alg: Literal["ML-KEM-768"] = ALG


class Confirmed(Timed):
    key_confirmation: Annotated[str, Field(description="48 bytes in base64, sealed under the record key.")]
    machine_id: Annotated[str, Field(pattern=_HEX)]
    alg: Literal["ML-KEM-768"] = ALG


class SslInitiated(Timed):
    cipher_text: CipherText
    seed_commitment: Annotated[str, Field(pattern=_HEX)]
    peer_machine_id: Annotated[str, Field(pattern=_HEX)]
    fingerprint: Annotated[str, Field(pattern=_HEX, description="Of the key that the peer published.")]


class SslResponded(Timed):
    seed_commitment: Annotated[str, Field(pattern=_HEX)]
    peer_machine_id: Annotated[str, Field(pattern=_HEX)]


class Secret(Answer):
    purpose: str
    secret: Annotated[str, Field(description="In base64.")]


class Pohc(Answer):
    slug: Slug
    tier: int
    score: int
    how: Annotated[str, Field(description="How the tier comes about.")]
    inputs: Annotated[dict[str, int], Field(description="The numbers that went into it.")]


class Status(Answer):
    slug: Slug
    version: str
    pulse_hz: float


class SessionBegun(Answer):
    may_write: bool
    expires: Annotated[int, Field(description="Unix seconds.")]


class SessionEnded(Answer):
    pass
