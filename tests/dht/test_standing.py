"""Whether a node serves: what it is told, what it sees of itself, and what checks by strangers say."""

from __future__ import annotations

from typing import cast

from dht.endpoints import Endpoint, pack
from dht.outcomes import Reachable
from dht.overlay import Overlay
from dht.standing import CHECK_US, DOUBT_US, Standing

HERE = pack("203.0.113.7", 51777)
INSIDE = pack("192.168.1.7", 51777)


class Seen:
    """An overlay that others see at HERE."""

    def __init__(self) -> None:
        self.endpoint: Endpoint | None = HERE
        self.serving = True

    def serve(self, serving: bool) -> None:
        self.serving = serving

    def serves(self) -> bool:
        return self.serving


def standing_of(own: Endpoint, told: bool | None = None) -> tuple[Standing, Seen]:
    overlay = Seen()
    standing = Standing(cast("Overlay", overlay), told, 0)
    standing.owns((own,))
    standing.settle()
    return standing, overlay


def checked(standing: Standing, *answers: bool | None) -> int:
    """When the next check is due, after these at 0 µs."""
    for answer in answers:
        standing.told(Reachable(answer, HERE), 0)
    standing.settle()
    return standing.due_us


def test_one_check_that_failed_is_no_proof_and_is_made_again_soon() -> None:
    """Its datagrams may have been lost, or those who were to dial were asked by too many at once."""
    standing, overlay = standing_of(HERE)
    assert checked(standing, False) == DOUBT_US
    assert overlay.serves()
    assert checked(standing, False) == CHECK_US
    assert not overlay.serves()
    assert standing.unreachable


def test_a_check_in_between_that_went_well_ends_the_doubt() -> None:
    standing, overlay = standing_of(HERE)
    assert checked(standing, False, True) == CHECK_US
    assert checked(standing, False) == DOUBT_US
    assert overlay.serves()


def test_one_check_that_went_well_is_proof() -> None:
    standing, overlay = standing_of(INSIDE)
    assert not overlay.serves(), "something translates its address"
    checked(standing, True)
    assert overlay.serves()


def test_who_only_asks_needs_no_second_check() -> None:
    """It would be one more chance that somebody gets through whom its NAT remembers."""
    standing, overlay = standing_of(INSIDE)
    assert checked(standing, False) == CHECK_US
    assert not overlay.serves()
    assert standing.unreachable


def test_who_moved_is_checked_at_once_and_nothing_from_before_counts() -> None:
    standing, overlay = standing_of(HERE)
    checked(standing, False)
    standing.moved(0)
    assert standing.due_us == 0
    assert checked(standing, False) == DOUBT_US
    assert overlay.serves()


def test_what_the_owner_says_stands() -> None:
    standing, overlay = standing_of(HERE, told=True)
    checked(standing, False, False)
    assert overlay.serves()
