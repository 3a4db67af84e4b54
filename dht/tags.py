"""Tags: who wants to hear of what, and who is told.

    publish     a public tag: subscribers here, and gossip (topic "tag:" ‖ tag)
    publish_to  for some machines: a sealed call to each; gossip never hears of it
    subscribe   "vpn.tunnel.request" for just this tag, "vpn.tunnel.*" for all that begin with "vpn.tunnel.",
                "*" for every one

`subscribers_notified` counts what is known: subscriptions here that matched, and machines that proved that
they have read the event. Events that homes say they hold are counted apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from crypto.errors import LocalFault
from crypto.kem import BadPublicKey
from crypto.pulse import zeqond as zeqond_of
from dht import letters
from dht.calls import Called, Calls, Recipient, Sent

TOPIC: Final = "tag:"
PUBLIC_BYTES: Final = 900
SUBSCRIPTIONS: Final = 256
EVERY: Final = "*"

Gossip: TypeAlias = Callable[[str, bytes, int, int], object]
"""Publish (topic, body, now_us, unix_us) in the mesh, signed."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """An event for subscriptions here. `author`: of a public one the Ed25519 key (32 bytes) that signed it,
    of a private one the machine_id (32), whose key bundle is `bundle` (else empty)."""

    subscriptions: tuple[int, ...]
    tag: str
    author: bytes
    bundle: bytes
    body: bytes
    zeqond: int


@dataclass(frozen=True, slots=True)
class Notified:
    """What became of a `publish_to`: so many of `machines` have read it; for `held` more a home keeps it."""

    handle: int
    machines: int
    subscribers_notified: int
    held: int


class _Fan:
    """The calls of one `publish_to`."""

    __slots__ = ("held", "machines", "notified", "waiting")

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.machines = self.notified = self.held = 0


class Tags:
    """`author`: our own Ed25519 public key, 32 bytes."""

    __slots__ = (
        *("_author", "_calls", "_exact", "_fan_of", "_fans", "_gossip", "_next", "_patterns"),
        "events",
    )

    def __init__(self, calls: Calls, gossip: Gossip, author: bytes) -> None:
        self.events: list[Tagged | Notified] = []
        self._calls = calls
        self._gossip = gossip
        self._author = author
        self._patterns: dict[int, str] = {}
        self._exact: dict[str, list[int]] = {}  # subscriptions, by pattern
        self._next = 1
        self._fans: dict[int, _Fan] = {}
        self._fan_of: dict[int, int] = {}  # by the handle of a call

    # ------------------------------------------------------------------ subscriptions

    def subscribe(self, pattern: str) -> int:
        """Returns the subscription's number. Raises LocalFault for a pattern that can match nothing, and for
        more than 256 subscriptions."""
        if pattern != EVERY:
            letters.check(pattern.removesuffix(".*"), b"")
        if len(self._patterns) >= SUBSCRIPTIONS:
            raise LocalFault(f"there are {SUBSCRIPTIONS} subscriptions already; end one first")
        number, self._next = self._next, self._next + 1
        self._patterns[number] = pattern
        self._exact.setdefault(pattern, []).append(number)
        return number

    def unsubscribe(self, number: int) -> None:
        """Of a number that is none (any more): nothing."""
        pattern = self._patterns.pop(number, None)
        if pattern is not None:
            self._exact[pattern].remove(number)
            if not self._exact[pattern]:
                del self._exact[pattern]

    def matching(self, tag: str) -> tuple[int, ...]:
        """Subscriptions that want this tag, oldest first."""
        if not self._patterns:
            return ()
        words = tag.split(".")
        prefixes = [".".join(words[:count]) + ".*" for count in range(1, len(words))]
        found = [self._exact[one] for one in (tag, EVERY, *prefixes) if one in self._exact]
        return tuple(sorted(number for numbers in found for number in numbers))

    # ------------------------------------------------------------------ publishing

    def publish(self, tag: str, body: bytes, now_us: int, unix_us: int) -> int:
        """To everybody who wants it: `subscribers_notified`, those here. Raises LocalFault for a tag that is
        none and a body over 900 bytes."""
        letters.check(tag, body)
        if len(body) > PUBLIC_BYTES:
            raise LocalFault(f"a public event has at most {PUBLIC_BYTES} bytes, this one {len(body)}")
        self._gossip(TOPIC + tag, body, now_us, unix_us)
        return self._tell(tag, self._author, b"", body, zeqond_of(unix_us // 1000))

    def publish_to(
        self, recipients: Sequence[Recipient], tag: str, body: bytes, now_us: int, unix_us: int
    ) -> int:
        """To these machines alone; `Notified` of the handle says how many were reached. Raises LocalFault for
        a tag or a body that no event may have; a machine that cannot be called is one that is not reached."""
        letters.check(tag, body)
        handle, self._next = self._next, self._next + 1
        fan = self._fans[handle] = _Fan()
        for recipient in recipients:
            fan.machines += 1
            with suppress(LocalFault, BadPublicKey):
                call = self._calls.send(recipient, tag, body, now_us, unix_us)
                fan.waiting.append(call)
                self._fan_of[call] = handle
        self._finish(handle, fan)
        return handle

    # ------------------------------------------------------------------ what came

    def heard(self, topic: str, author: bytes, body: bytes, zeqond: int) -> int:
        """Something from gossip: how many subscriptions wanted it. Other topics are not ours."""
        tag = topic.removeprefix(TOPIC)
        if tag == topic or not letters.is_tag(tag):
            return 0
        return self._tell(tag, author, b"", body, zeqond)

    def called(self, event: Called) -> int:
        """An event for this machine alone: how many subscriptions wanted it."""
        return self._tell(event.tag, event.author_id, event.author_bundle, event.body, event.zeqond)

    def sent(self, event: Sent) -> None:
        """A call has ended; others' than ours are passed over."""
        handle = self._fan_of.pop(event.handle, None)
        if handle is None:
            return
        fan = self._fans[handle]
        fan.waiting.remove(event.handle)
        fan.notified += event.delivered
        fan.held += not event.delivered and event.held > 0
        self._finish(handle, fan)

    def _finish(self, handle: int, fan: _Fan) -> None:
        if not fan.waiting:
            del self._fans[handle]
            self.events.append(Notified(handle, fan.machines, fan.notified, fan.held))

    def _tell(self, tag: str, author: bytes, bundle: bytes, body: bytes, zeqond: int) -> int:
        numbers = self.matching(tag)
        if numbers:
            self.events.append(Tagged(numbers, tag, author, bundle, body, zeqond))
        return len(numbers)
