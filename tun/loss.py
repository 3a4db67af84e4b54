"""Spans or segments: decided for each peer by the loss that it reports, authenticated, about what we send.

One lost datagram costs a whole span but only one segment, so spans are worth it while nearly nothing is lost.
As a rule the choice starts with segments, and needs reports of hundreds of datagrams without loss before it
takes spans; a peer that reports nothing keeps getting segments. A peer that lies changes only what it gets.

Loss is counted over the last 65,536 datagrams or so, each report weighing as much as it tells of.

Where many peers come and go, each of them would begin with segments again. So while the last eight that told
enough all get spans, a new one gets them as well: until its own first report, or for HOPE datagrams in all.
"""

from __future__ import annotations

from collections import deque

MEMORY = 65_536  # datagrams
ENOUGH = 512  # datagrams reported on, before a span is sent
SPAN_BELOW = 2.5e-4
SEGMENTS_ABOVE = 6e-4
FEW = 3  # so many lost in all are no reason to change
MARKS = 8_192
WITNESSES = 8  # peers
HOPE = 4_096  # datagrams to one peer, without a word from it about any


class Outlook:
    """What the peers that told enough last are given; kept by a worker for those who told nothing yet.

    All of WITNESSES must agree: whoever lies to one node as so many peers changes how a new one begins."""

    def __init__(self) -> None:
        self.span = False
        self._last: dict[LossMeter, bool] = {}

    def heard(self, meter: LossMeter) -> None:
        """Its peer has just reported."""
        self._last.pop(meter, None)
        self._last[meter] = meter.span
        if len(self._last) > WITNESSES:
            del self._last[next(iter(self._last))]
        self.span = len(self._last) == WITNESSES and all(self._last.values())


class LossMeter:
    """What was sent on one lane in one epoch, and what is known to have arrived. `span`: the choice."""

    __slots__ = (
        "_hope",
        "_lost",
        "_marks",
        "_next",
        "_outlook",
        "_received",
        "_sent",
        "_total",
        "_total_told",
        "epoch",
        "span",
    )

    def __init__(self, outlook: Outlook | None = None) -> None:
        self.span = False
        self._outlook = outlook or Outlook()
        self._hope = HOPE  # datagrams that may still go as spans though nothing was reported
        self.epoch = -1
        self._lost = self._sent = 0.0
        self._restart()

    def _restart(self) -> None:
        self._marks: deque[tuple[int, int]] = deque(
            maxlen=MARKS
        )  # (next sequence, datagrams sent until then)
        self._next = self._received = 0
        self._total = self._total_told = 0

    def enter(self, epoch: int) -> None:
        """The lane's sequence starts anew in every epoch (and session); what was learnt of the path stays."""
        if epoch != self.epoch:
            self.epoch = epoch
            self._restart()
            if not self.told:
                self.span = self._hope > 0 and self._outlook.span

    def sent(self, next_sequence: int, datagrams: int) -> None:
        """A train is out; `next_sequence` is that of the next record."""
        self._total += datagrams
        if self.span and not self._sent:
            self._hope -= datagrams
            self.span = self._hope > 0
        self._marks.append((next_sequence, self._total))

    def report(self, next_sequence: int, received: int) -> None:
        """The other side has `received` of our records below `next_sequence`."""
        marks = self._marks
        told = self._total_told
        while marks and marks[0][0] <= next_sequence:
            told = marks.popleft()[1]
        records, datagrams = next_sequence - self._next, told - self._total_told
        if records <= 0 or datagrams <= 0:
            return  # an older report, or one about what we have not sent
        arrived = received - self._received
        self._next, self._received, self._total_told = next_sequence, received, told
        keep = max(0.0, 1 - datagrams / MEMORY)
        self._lost = self._lost * keep + max(0, records - arrived)
        self._sent = self._sent * keep + datagrams
        if self.span:
            self.span = self._lost < FEW or self.loss < SEGMENTS_ABOVE
        else:
            self.span = self._sent >= ENOUGH and self.loss < SPAN_BELOW
        if self._sent >= ENOUGH or self._lost >= FEW:
            self._outlook.heard(self)

    @property
    def loss(self) -> float:
        """Fraction of the datagrams; 0 where nothing was reported."""
        return self._lost / self._sent if self._sent else 0.0

    @property
    def told(self) -> bool:
        """Has the other side ever reported?"""
        return self._sent > 0
