"""Until when a reply secret counts: a payee that was started again asks under it to be called."""

from __future__ import annotations

from typing import cast

import pytest
from msgspec import structs

from crypto.identity import BUNDLE_BYTES
from node.discovery import Discovery
from node.replies import Replies
from node.settlement import terms, wire
from node.settlement.life import Code, Happening, Role, Row
from node.settlement.terms import Unit
from node.settlement.wire import Request
from node.tunnels.post import HELD_MAX, Post


class Secrets:
    """A Post, and the secrets that discovery is told to go by."""

    def __init__(self) -> None:
        self.now: tuple[bytes, ...] = ()
        self.post = Post(cast(Discovery, None), Replies(self._take))

    def _take(self, secrets: tuple[bytes, ...]) -> None:
        self.now = secrets

    def pending(self, number: int) -> Row:
        """A request of ours, under a secret that counts."""
        request = Request(
            tunnel_id=number.to_bytes(16, "big"),
            pricing_unit=Unit.GB,
            price_zeq=50,
            lifespan_zeqonds=100,
            reply_secret=self.post.secret(),
        )
        agreed = terms.agree(Unit.GB, 50, 100)
        return Row(
            tunnel_id=request.tunnel_id,
            role=Role.PAYER,
            bundle=bytes(BUNDLE_BYTES),
            terms=agreed.encoded,
            asked_at=1,
            answer_to=wire.encode(request),
        )


@pytest.fixture
def secrets() -> Secrets:
    return Secrets()


def test_a_secret_counts_until_the_tunnel_has_ended(secrets: Secrets) -> None:
    row = secrets.pending(1)
    counts = secrets.now
    secrets.post.forget(row)
    row = row.after(Happening.ACCEPT, 2)
    secrets.post.forget(row)
    assert secrets.now == counts
    secrets.post.forget(row.after(Happening.TERMINATE, 3, Code.TERMINATED))
    assert secrets.now == ()


def test_a_secret_of_a_request_that_is_refused_counts_no_more(secrets: Secrets) -> None:
    secrets.post.forget(secrets.pending(1).after(Happening.REFUSE, 2, Code.FULL))
    assert secrets.now == ()


def test_a_start_takes_the_secrets_of_what_goes_on(secrets: Secrets) -> None:
    row = Secrets().pending(1)
    active = row.after(Happening.ACCEPT, 2)
    for each in (active, active.after(Happening.TERMINATE, 3), structs.replace(active, role=Role.PAYEE)):
        secrets.post.load(each)
    assert secrets.now == (wire.decode_request(row.answer_to).reply_secret,)
    secrets.post.load(Secrets().pending(2))
    assert len(secrets.now) == 2


def test_tunnels_that_carry_leave_secrets_to_ask_others_with(secrets: Secrets) -> None:
    rows = [secrets.pending(number).after(Happening.ACCEPT, 2) for number in range(HELD_MAX + 2)]
    for row in rows:
        secrets.post.forget(row)
    assert len(secrets.now) == HELD_MAX
    secrets.post.forget(rows[0].after(Happening.TERMINATE, 3))
    assert len(secrets.now) == HELD_MAX - 1
