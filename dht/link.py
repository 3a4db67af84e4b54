"""One link of the mesh: two neighbours that know each other's cookie, and what each may ask of the other.

    limit           sustained, at once          what is over it
    pushes in       20/s, 200                   dropped unread; a neighbour far over it is cut off
    pushes out      18/s, 150                   announced by its id instead, to be pulled when there is room;
                                                of what is pulled, only the lower 100 of the 150
    asked for       6/s, 200                    waits
    ids in          5,000/s, 5,000              dropped
    digests in      one in 4 s                  dropped

An honest neighbour keeps below what is allowed to it, so who does not is no honest neighbour. Each limit is
one number, the time until which it is used up (the generic cell rate algorithm of ITU-T I.371).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dht import endpoints
from dht.endpoints import Endpoint

SECOND_US: Final = 1_000_000
PUSH_US: Final = SECOND_US // 20  # of a core's time, at 4,000 signatures a second: 0.5 % for one link
PUSHES_US: Final = 200 * PUSH_US
SEND_US: Final = SECOND_US // 18
SENDS_US: Final = 150 * SEND_US
PULLS_US: Final = 100 * SEND_US
ASK_US: Final = SECOND_US // 6
ASKS_US: Final = 200 * ASK_US
ID_US: Final = SECOND_US // 5000
IDS_US: Final = SECOND_US
DIGEST_US: Final = 4 * SECOND_US
EXCESS: Final = 400  # pushes over the limit, less one a second
RETRY_US: Final = 1_500_000  # from asking for a bulletin to asking the next who has it
_LONG_AGO_US: Final = -max(RETRY_US, DIGEST_US)
PROMISES: Final = 16  # times that it gave nothing of what it announced, beyond the bulletins that it gave
PASSENGER: Final = 24  # bulletins that came by others since this neighbour last brought or announced one,
TRIAL: Final = 8  # or since it came, if it never did


class LinkState(NamedTuple):
    """For `zeqnode status`. Times are monotonic, in microseconds; `score`: bulletins that this neighbour was
    the first to bring, less those that it announced and did not give."""

    endpoint: Endpoint
    since_us: int
    outbound: bool
    eager: bool
    score: int
    sent: int
    received: int


class Link:
    """`bit`: its place in the sets of neighbours that the gossip keeps as numbers, another for each link."""

    __slots__ = (
        *("asked", "asks_us", "bit", "broken", "claims", "digest_in_us", "digest_out_us", "eager"),
        *("endpoint", "excess", "excess_us", "failed_us", "firsts", "heard_us", "ids_us", "kept", "known"),
        *(
            "mark",
            "mine",
            "network",
            "open",
            "opened_us",
            "outbound",
            "probes",
            "proven",
            "pushes_us",
            "received",
        ),
        *("sends_us", "sent", "tested", "theirs"),
    )

    def __init__(
        self,
        endpoint: Endpoint,
        mine: bytes,
        theirs: bytes,
        now_us: int,
        *,
        outbound: bool,
        bit: int,
        mark: int,
    ) -> None:
        self.endpoint, self.network = endpoint, endpoints.network(endpoint)
        self.mine, self.theirs = mine, theirs
        self.outbound, self.bit = outbound, bit
        self.eager = self.open = True
        self.opened_us = self.heard_us = now_us
        self.mark = mark  # how many bulletins had been heard from anybody when it was last of use
        self.known = 0  # dht/links.py's Known: what we knew of the address
        self.proven = False  # it was of use before
        self.tested = False  # we made it lazy, to see whether it has bulletins from others
        self.probes = 0  # sent and not answered
        self.firsts = self.kept = self.broken = 0
        self.asked = 0  # bulletins asked of it just now
        self.claims = 0  # bulletins missing here that it was the first to announce
        self.sent = self.received = 0  # datagrams
        self.excess = self.excess_us = 0
        self.pushes_us = self.sends_us = self.ids_us = self.asks_us = now_us
        self.failed_us = self.digest_in_us = self.digest_out_us = _LONG_AGO_US

    def may_push(self, now_us: int) -> bool:
        """Whether we read one more bulletin from it; uses it up."""
        used = max(self.pushes_us, now_us) + PUSH_US
        if used - now_us > PUSHES_US:
            return False
        self.pushes_us = used
        return True

    def may_send(self, now_us: int, *, pulled: bool = False) -> bool:
        """Whether we send it one more bulletin, unasked or asked for; uses it up."""
        used = max(self.sends_us, now_us) + SEND_US
        if used - now_us > (PULLS_US if pulled else SENDS_US):
            return False
        self.sends_us = used
        return True

    def may_ask(self, now_us: int) -> bool:
        """Whether to ask it for one more bulletin; uses it up."""
        used = max(self.asks_us, now_us) + ASK_US
        if used - now_us > ASKS_US:
            return False
        self.asks_us = used
        return True

    def failed(self, now_us: int) -> None:
        """It did not give what it was asked for. However many that were, a busy moment counts once."""
        if now_us - self.failed_us >= RETRY_US:
            self.failed_us = now_us
            self.broken += 1

    def may_announce(self, ids: int, now_us: int) -> bool:
        """Whether we read that many ids more from it; uses them up."""
        used = max(self.ids_us, now_us) + ids * ID_US
        if used - now_us > IDS_US:
            return False
        self.ids_us = used
        return True

    def exceeds(self, now_us: int) -> bool:
        """Counts a push over the limit; whether there were too many of them."""
        self.excess = max(0, self.excess - (now_us - self.excess_us) // SECOND_US) + 1
        self.excess_us = now_us
        return self.excess > EXCESS

    def useful(self, heard: int) -> None:
        """It brought or announced the latest bulletin, not having it from us."""
        self.mark, self.proven, self.tested = heard, True, False

    def idle(self, heard: int) -> bool:
        """Whether it is a passenger: takes and does not give."""
        return heard - self.mark >= (PASSENGER if self.proven else TRIAL)

    @property
    def trust(self) -> tuple[int, bool]:
        """The order in which neighbours are asked for what several announced."""
        return self.known * PROMISES + self.kept + self.firsts - self.broken, self.outbound

    @property
    def lies(self) -> bool:
        """Whether it announces what it then does not give, more often than loss explains."""
        return self.broken > self.kept + self.firsts + PROMISES

    def state(self) -> LinkState:
        return LinkState(
            self.endpoint,
            self.opened_us,
            self.outbound,
            self.eager,
            self.firsts - self.broken,
            self.sent,
            self.received,
        )
