"""Tunnels as people and programs see them: one dictionary each."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from crypto.errors import LocalFault
from crypto.identity import fingerprint, slug
from crypto.pulse import ZEQOND_MS
from node.settlement.life import Code, Row
from node.settlement.terms import MILLIONTHS
from node.tunnels.errors import ended_because


def identifier(tunnel_id: bytes) -> str:
    """The seeds' UUID text of the 16 bytes."""
    return str(UUID(bytes=tunnel_id))


def zeq(millionths: int) -> str:
    """Exact, with no digit that says nothing: "12.5"."""
    whole, rest = divmod(abs(millionths), MILLIONTHS)
    sign = "-" if millionths < 0 else ""
    return f"{sign}{whole}.{rest:06}".rstrip("0").rstrip(".") if rest else f"{sign}{whole}"


def described(row: Row, name: str | None, now: int) -> dict[str, Any]:
    """`name`: the partner's pet name; `now`: zeqond. Sums are strings in ZEQ and whole millionths."""
    terms = row.agreed
    age = (row.ended_at or now) - row.started_at if row.started_at else 0
    return {
        "id": identifier(row.tunnel_id),
        "state": str(row.state),
        "role": str(row.role),
        "partner": name or slug(row.partner).lower(),
        "slug": slug(row.partner),
        "fingerprint": fingerprint(row.partner),
        "carrying": bool(row.began_at) and not row.ended,
        "pricing_unit": str(terms.pricing_unit),
        "price_zeq": terms.price_zeq,
        "lifespan_zeqonds": terms.lifespan_zeqonds,
        "asked_at": row.asked_at,
        "started_at": row.started_at or None,
        "ended_at": row.ended_at or None,
        "age_s": round(max(0, age) * ZEQOND_MS / 1000),
        "left_s": round(max(0, terms.lifespan_zeqonds - age) * ZEQOND_MS / 1000) if not row.ended else 0,
        "bytes": row.carried,
        "zeqonds": row.zeqonds,
        "zeq": zeq(row.amount),
        "millionths": row.amount,
        "settled": row.settled,
        "code": str(row.code) or None,
        "why": ended_because(row.code) or None if row.code is not Code.NONE else None,
    }


def parse_id(text: str) -> bytes:
    """16 bytes of a UUID text. Raises LocalFault."""
    try:
        return UUID(text).bytes
    except ValueError as error:
        raise LocalFault(f"{text!r} is no id of a tunnel") from error
