"""What a payer that was killed believes its payee: a window more, once, and nothing of one that cheats."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.settlement import wire as messages
from node.settlement.life import Code
from node.settlement.meters import LEAST_WINDOW_BYTES, OverMetered, Payer, Statement
from tests.node.settlement.market_kit import MB, Wire
from tests.node.settlement.market_steps import begun, carry
from tests.node.settlement.test_meters import PAYER, pair

CLAIMS = st.integers(0, 200 * MB)


@given(st.lists(st.tuples(CLAIMS, CLAIMS), min_size=1, max_size=4), CLAIMS, CLAIMS)
def test_it_signs_for_no_more_than_a_window_beyond_what_it_knows(
    claims: list[tuple[int, int]], sent: int, received: int
) -> None:
    first, _ = pair()
    first.measured(10 * MB, 20 * MB, 5)
    first.stated(Statement(10 * MB, 20 * MB, 5))
    assert first.voucher()
    again = Payer(first.tunnel, PAYER, first.last, resumed=True)
    again.measured(sent, received, 9)
    for up, down in claims:
        try:
            again.stated(Statement(up, down, 9))
        except OverMetered:
            continue
    again.voucher()
    assert again.last is not None
    assert again.last.up + again.last.down <= 30 * MB + sent + received + LEAST_WINDOW_BYTES


@pytest.mark.parametrize("after", range(8))
def test_who_ended_it_because_of_false_claims_and_is_killed_then_believes_nothing(
    tmp_path: Path, wire: Wire, after: int
) -> None:
    relay, guest, tunnel = begun(tmp_path, wire)
    carry(wire, guest, relay, 20)
    guest.dies_in = after
    guest.note(relay.machine_id, messages.encode(messages.Stated(tunnel, 90 * MB, 90 * MB, 20)))
    if guest.alive:
        guest.kill()
    guest.start()
    for up, down in ((90, 90), (18, 30)):
        guest.note(relay.machine_id, messages.encode(messages.Stated(tunnel, up * MB, down * MB, 20)))
    wire.run(20)
    row = guest.row(tunnel)
    assert row.code is Code.OVER_METERED
    assert row.carried <= 20 * MB
