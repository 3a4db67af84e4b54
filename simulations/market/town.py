"""Machines joined by lines, in virtual time: one heap, one seed, one course on every machine.

    heap    (time in µs, number, call, arguments): what is due first comes first, then what was put first
    line    two machines: latency, loss, and the handshakes that they have made; cut now and then, rekeyed
    trace   BLAKE2b-128 over all that arrived: time 8 ‖ from 32 ‖ to 32 ‖ length 2 ‖ body

The settlement cores run as they do in the node. What stands in for the data path is a counter for each side,
for handshakes a hash that both have, for the DHT a message that comes unless nobody is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Any, Final, Protocol

from crypto.pulse import ZEQOND_MS
from simulations.dice import MILLION, Dice, chance

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US
START_US: Final = 20_834 * DAY_US  # a Unix day begins: one run is one day
ZEQOND_US: Final = 1_000 * ZEQOND_MS
REKEY_US: Final = 120 * SECOND_US
REDIAL_US: Final = 5 * SECOND_US
TELL_US: Final = 200_000  # a lookup and an event, beside the way itself
UNDELIVERED_US: Final = 10 * SECOND_US
_CUT_PPM: Final = 100_000  # of sessions, whose way fails once for a while
_JITTER_US: Final = 4_000
_SESSIONS: Final = 2  # of one line that are known at a time, the newest first


class Resident(Protocol):
    """What a town needs of a machine. `peers`: machine_ids of those with whom it would open a session."""

    machine_id: bytes
    alive: bool
    peers: dict[bytes, None]

    def connected(self, machine_id: bytes) -> None: ...
    def note(self, machine_id: bytes, body: bytes) -> None: ...
    def hear(self, sender: Any, tag: str, body: bytes) -> None: ...
    def undelivered(self, tunnel_id: bytes) -> None: ...


class Line:
    """`up`: there is a session. `epoch` counts those, and what failed: what was under way then is lost."""

    __slots__ = ("chance", "dialling", "epoch", "loss_ppm", "one_way_us", "transcripts", "up")

    def __init__(self, dice: Dice) -> None:
        self.one_way_us = dice.between(5_000, 120_000)
        self.loss_ppm = dice.below(20_000)
        self.chance = dice.bits(64)
        self.transcripts: tuple[bytes, ...] = ()
        self.up = self.dialling = False
        self.epoch = 0

    @property
    def rtt_us(self) -> int:
        return 2 * self.one_way_us

    def below(self, bound: int) -> int:
        """0 to bound - 1, by this line's own chance."""
        self.chance, drawn = chance(self.chance)
        return drawn * bound >> 64

    def fall(self) -> None:
        self.up, self.transcripts, self.epoch = False, (), self.epoch + 1


class Town:
    """`seed`: 0 to 2⁶⁴ - 1. `counters`: messages, by what became of them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now_us = START_US
        self.counters: Counter[str] = Counter()
        self.machines: dict[bytes, Resident] = {}
        self._lines: dict[tuple[bytes, bytes], Line] = {}
        self._of: dict[bytes, list[bytes]] = {}  # with whom a machine has a line
        self._dice = Dice(seed, "lines")
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._random = 0
        self._trace = blake2b(digest_size=16)

    # ------------------------------------------------------------------ time and chance

    def call_at(self, time_us: int, call: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heappush(self._heap, (max(time_us, self.now_us), self._number, call, arguments))

    def call_in(self, after_us: int, call: Callable[..., None], *arguments: Any) -> None:
        self.call_at(self.now_us + after_us, call, *arguments)

    def run(self, until_us: int) -> None:
        """All that is due up to this time, and it is this time."""
        heap = self._heap
        while heap and heap[0][0] <= until_us:
            self.now_us, _, call, arguments = heappop(heap)
            call(*arguments)
        self.now_us = until_us

    def entropy(self, size: int) -> bytes:
        """At most 64 bytes."""
        self._random += 1
        drawn = blake2b(self._random.to_bytes(8, "big"), key=self.seed.to_bytes(8, "big"), digest_size=size)
        return drawn.digest()

    @property
    def trace(self) -> str:
        """32 hex digits for the course so far."""
        return self._trace.hexdigest()

    # ------------------------------------------------------------------ lines

    def add(self, machine: Resident) -> None:
        self.machines[machine.machine_id] = machine

    def line(self, one: bytes, other: bytes) -> Line:
        pair = (one, other) if one < other else (other, one)
        line = self._lines.get(pair)
        if line is None:
            line = self._lines[pair] = Line(self._dice)
            self._of.setdefault(one, []).append(other)
            self._of.setdefault(other, []).append(one)
        return line

    def transcripts(self, one: bytes, other: bytes) -> tuple[bytes, ...]:
        return self.line(one, other).transcripts

    def dial(self, one: bytes, other: bytes) -> None:
        """Handshakes until there is a session, or neither is the other's peer any more."""
        line = self.line(one, other)
        if not line.up and not line.dialling:
            line.dialling = True
            self.call_in(3 * line.one_way_us, self._shake, one, other)

    def hang_up(self, one: bytes, other: bytes) -> None:
        """One is not the other's peer any more; what it has sent is still under way."""
        line = self.line(one, other)
        line.up, line.transcripts = False, ()

    def vanish(self, machine_id: bytes) -> None:
        """Its process is gone, and with it all its sessions."""
        for other in self._of.get(machine_id, ()):
            line = self.line(machine_id, other)
            line.fall()
            if machine_id in self.machines[other].peers:
                self.dial(other, machine_id)

    def _shake(self, one: bytes, other: bytes) -> None:
        line, a, b = self.line(one, other), self.machines[one], self.machines[other]
        line.dialling = False
        calls = (a.alive and other in a.peers, b.alive and one in b.peers)
        if line.up or not any(calls):
            return
        if not all(calls):
            line.dialling = True
            self.call_in(REDIAL_US, self._shake, one, other)
            return
        line.epoch += 1
        self._session(line, a, b)
        self.call_in(REKEY_US, self._rekey, line, a, b, line.epoch)
        if line.below(MILLION) < _CUT_PPM:
            self.call_in(line.below(MINUTE_US), self._cut, line, a, b, line.epoch)

    def _session(self, line: Line, a: Resident, b: Resident) -> None:
        line.up = True
        line.transcripts = (self.entropy(32), *line.transcripts)[:_SESSIONS]
        a.connected(b.machine_id)
        if line.up:
            b.connected(a.machine_id)

    def _rekey(self, line: Line, a: Resident, b: Resident, epoch: int) -> None:
        if line.up and line.epoch == epoch:
            self._session(line, a, b)
            self.call_in(REKEY_US, self._rekey, line, a, b, epoch)

    def _cut(self, line: Line, a: Resident, b: Resident, epoch: int) -> None:
        if line.up and line.epoch == epoch:
            self.counters["sessions cut"] += 1
            line.fall()
            line.dialling = True
            self.call_in(SECOND_US + line.below(20 * SECOND_US), self._shake, a.machine_id, b.machine_id)

    # ------------------------------------------------------------------ messages

    def post(self, sender: bytes, to: bytes, body: bytes) -> None:
        """A note in the session of the two; lost where there is none."""
        line = self.line(sender, to)
        if not line.up:
            self.counters["notes without a session"] += 1
        elif line.below(MILLION) < line.loss_ppm:
            self.counters["notes lost"] += 1
        else:
            delay_us = line.one_way_us + line.below(_JITTER_US)
            self.call_in(delay_us, self._arrive, line, line.epoch, sender, to, body)

    def _arrive(self, line: Line, epoch: int, sender: bytes, to: bytes, body: bytes) -> None:
        machine = self.machines[to]
        if line.epoch != epoch or not machine.alive or sender not in machine.peers:
            self.counters["notes lost"] += 1
            return
        self.counters["notes delivered"] += 1
        self._record(sender, to, body)
        machine.note(sender, body)

    def tell(self, sender: Resident, to: bytes, tag: str, body: bytes, tunnel_id: bytes) -> None:
        """An event sealed to a machine: repeated until it is there, so that it comes if somebody is."""
        line = self.line(sender.machine_id, to)
        self.call_in(TELL_US + 2 * line.one_way_us, self._told, sender, to, tag, body, tunnel_id)

    def _told(self, sender: Resident, to: bytes, tag: str, body: bytes, tunnel_id: bytes) -> None:
        machine = self.machines[to]
        if machine.alive:
            self.counters["events delivered"] += 1
            self._record(sender.machine_id, to, body)
            machine.hear(sender, tag, body)
        else:
            self.counters["events not delivered"] += 1
            self.call_in(UNDELIVERED_US, sender.undelivered, tunnel_id)

    def _record(self, sender: bytes, to: bytes, body: bytes) -> None:
        head = self.now_us.to_bytes(8, "big") + sender + to + len(body).to_bytes(2, "big")
        self._trace.update(head + body)
