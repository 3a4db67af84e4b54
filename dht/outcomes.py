"""What the overlay has to say to whoever asked it: the entries of `Overlay.events`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from dht.contacts import Contact
from dht.endpoints import Endpoint


@dataclass(frozen=True, slots=True)
class Found:
    """The end of `find`: the nodes closest to the target that answered, closest first, each in a network of
    its own. `hops`: how many nodes one after another named the closest; `messages`: datagrams both ways."""

    handle: int
    contacts: list[Contact]
    hops: int
    messages: int


@dataclass(frozen=True, slots=True)
class Got:
    """Records of a `get` that were not handed up before; who stores them does not vouch for them. `final`
    comes once, with or without records, and nothing comes after it."""

    handle: int
    records: list[bytes]
    final: bool
    hops: int
    messages: int


@dataclass(frozen=True, slots=True)
class Put:
    """The end of `put`: of `asked` nodes (ourselves included, where we are close), `stored` keep all."""

    handle: int
    stored: int
    asked: int


@dataclass(frozen=True, slots=True)
class Reachable:
    """The end of `check_reach`. None: nobody could tell, for want of a node that we had not called lately."""

    reachable: bool | None
    endpoint: Endpoint | None


@dataclass(frozen=True, slots=True)
class Moved:
    """Others see us at another endpoint than before, or at all."""

    endpoint: Endpoint


Outcome: TypeAlias = Found | Got | Put | Reachable | Moved
