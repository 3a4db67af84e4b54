"""Whose a name is, and where that machine is asked.

    ZEQ07000000001                      a peer of that slug; else the machine that is pinned to it
    ZEQ07000000001~abcd-efgh-…          the one whose fingerprint begins so: 80 bits or more of it

A slug alone is a name that anybody can have in minutes, so it never picks a stranger: SlugUnpinned says who
goes by it. A peer, or a pin, is not shaken by others that claim its slug.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import trio

from crypto.identity import KeyBundle, fingerprint, slug
from dht.calls import MAX_ENDPOINTS, Recipient
from dht.endpoints import Endpoint
from dht.locations import Location, listed_secret
from dht.slugs import is_slug
from node.asking import Unanswered
from node.discovery_face import SlugFound
from node.keyex.errors import InvalidTarget, SlugUnpinned, TargetNotFound
from node.links import Links
from node.resolve import numeric
from node.store import PeerRow

MET_MAX: Final = 256
RECORD_SECONDS: Final = 5.0  # for the record of a peer of which addresses are known already
_BEGINNING: Final = re.compile(r"[a-z2-7]{16,52}")


class Finder(Protocol):
    """What is needed of node/discovery.py."""

    links: Links

    async def find_slug(self, slug: str) -> SlugFound | None: ...

    async def find_machine(
        self, machine_id: bytes, ed25519: bytes | None, lookup_secret: bytes
    ) -> Location | None: ...


class Directory:
    """`peers()`: rows by machine_id. `pinned`: the machine_id that a slug is pinned to, if any."""

    def __init__(
        self,
        finder: Finder,
        peers: Callable[[], Mapping[bytes, PeerRow]],
        pinned: Callable[[str], bytes | None],
    ) -> None:
        self._finder = finder
        self._peers = peers
        self._pinned = pinned
        self._met: OrderedDict[bytes, KeyBundle] = OrderedDict()

    def meet(self, bundle: KeyBundle) -> None:
        """It has asked us something, so it claims its slug as a listed machine does, though it is not."""
        self._met[bundle.machine_id] = bundle
        self._met.move_to_end(bundle.machine_id)
        if len(self._met) > MET_MAX:
            self._met.popitem(last=False)

    async def named(self, name: str) -> KeyBundle:
        """The machine that is meant. Raises InvalidTarget, TargetNotFound, SlugUnpinned, Unanswered."""
        wanted, beginning = _parts(name)
        known = [KeyBundle.from_bytes(row.bundle) for row in self._peers().values()]
        known = [bundle for bundle in known if _is(bundle, wanted, beginning)]
        if len(known) == 1:
            return known[0]
        met = any(_is(bundle, wanted, beginning) for bundle in self._met.values())
        found = await self._finder.find_slug(wanted) if not (met and beginning) else None
        if found is None and not known and not met:
            raise Unanswered(f"the mesh did not say in time who is called {wanted}; try again")
        claimed = (*self._met.values(), *known, *(found.claims if found else ()))
        claims = {bundle.machine_id: bundle for bundle in claimed}
        claims = {each: bundle for each, bundle in claims.items() if _is(bundle, wanted, beginning)}
        pin = self._pinned(wanted)
        if pin in claims:
            return claims[pin]
        if not claims:
            raise TargetNotFound(
                f"no listed machine is called {name}; one that is not listed is reached when it is a peer"
            )
        if beginning and len(claims) == 1:
            return next(iter(claims.values()))
        raise SlugUnpinned(wanted, tuple(claims.values()))

    async def of(self, machine_id: bytes) -> Recipient:
        """How a machine is asked of which only this is known. Raises as `named` and `recipient`."""
        return await self.recipient(await self.named(f"{slug(machine_id)}~{fingerprint(machine_id)}"))

    async def recipient(self, bundle: KeyBundle) -> Recipient:
        """How it is asked: by its record, and by what is known of it as a peer. Raises Unanswered."""
        machine_id = bundle.machine_id
        row = self._peers().get(machine_id)
        secret = (row.lookup_secret if row is not None else None) or listed_secret(machine_id)
        known = self._places(row)
        location = None
        with trio.move_on_after(RECORD_SECONDS if known else float("inf")):
            location = await self._finder.find_machine(machine_id, bundle.ed25519, secret)
        found = location.endpoints if location is not None else ()
        homes = location.homes if location is not None else ()
        endpoints = tuple(dict.fromkeys((*found, *known)))[:MAX_ENDPOINTS]
        if not endpoints and not homes:
            raise Unanswered(
                f"nothing is known of where {slug(machine_id)} is; it is found while its node runs and is "
                "listed, or when it is a peer"
            )
        return Recipient(bundle, secret, endpoints, homes)

    def _places(self, row: PeerRow | None) -> list[Endpoint]:
        if row is None:
            return []
        last = [row.last_endpoint] if row.last_endpoint else []
        return self._finder.links.endpoints(numeric([*last, *row.endpoints]))


def _parts(name: str) -> tuple[str, str]:
    """(slug, beginning of the fingerprint, or nothing). Raises InvalidTarget."""
    wanted, mark, beginning = name.partition("~")
    beginning = beginning.replace("-", "")
    if not is_slug(wanted) or (mark and not _BEGINNING.fullmatch(beginning)):
        raise InvalidTarget(
            f"{name[:80]!r} is no machine's name: that is ZEQ07 and nine digits, and perhaps ~ and the first "
            "16 letters of its fingerprint or more"
        )
    return wanted, beginning


def _is(bundle: KeyBundle, wanted: str, beginning: str) -> bool:
    text = fingerprint(bundle.machine_id).replace("-", "")
    return slug(bundle.machine_id) == wanted and text.startswith(beginning)
