"""What people ask of discovery through the control socket: relays, machines, tags, and who is there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

import trio

from crypto.identity import BadFingerprint, fingerprint, parse_fingerprint, slug
from dht import endpoints
from dht.locations import Location, listed_secret
from dht.marketplace import Listing
from dht.offers import ANY
from dht.slugs import is_slug
from dht.tags import Tagged
from node.context import Context
from node.control import Asker
from node.discovery import Discovery
from node.errors import Unreachable, Usage
from node.offering import Offering, described
from node.operations import Arguments, Operation, Result, required
from node.peers import unix_now
from node.probing import Probing, is_due
from node.status import Status
from node.store import PeerRow

OPERATIONS: Final = (
    "relay",
    "relay_offer",
    "relay_withdraw",
    "market",
    "market_watch",
    "lookup",
    "mesh",
    "tags_tail",
    "tags_publish",
)
PROBED_MAX: Final = 10  # the best of the offers shown
WATCH_SECONDS: Final = 1.0
WATCH_REFRESH_SECONDS: Final = 60.0
_OFF: Final = (
    "discovery is off on this node; set `enabled = true` in [dht] of its configuration and restart it"
)


class Finding:
    """`operations` are part of those of node/operations.py."""

    def __init__(
        self, context: Context, discovery: Discovery, offering: Offering, probing: Probing, status: Status
    ) -> None:
        self._context = context
        self._discovery = discovery
        self._offering = offering
        self._probing = probing
        self._status = status
        self.tier_of: Callable[[bytes], Awaitable[int]] | None = None
        """The trust tier, 0 to 4, of the holder of an Ed25519 key (32 bytes), where there is a ledger."""
        self.operations: dict[str, Operation] = {op: getattr(self, f"_on_{op}") for op in OPERATIONS}

    # ------------------------------------------------------------------ relays

    async def _on_relay(self, _arguments: Arguments, _asker: Asker) -> Result:
        return {"offer": self._offering.snapshot(), "warning": await self._warning()}

    async def _on_relay_offer(self, arguments: Arguments, _asker: Asker) -> Result:
        return {"offer": described(await self._offering.make(arguments)), "warning": await self._warning()}

    async def _warning(self) -> str | None:
        """Why the offer is no use yet."""
        why = await self._context.peers.guests.check()
        return f"requests of strangers are refused for now. {why}" if why and self._offering.listed else None

    async def _on_relay_withdraw(self, _arguments: Arguments, _asker: Asker) -> Result:
        return {"withdrawn": described(await self._offering.withdraw())}

    async def _on_market(self, arguments: Arguments, asker: Asker) -> Result:
        country, most, probe = _filter(arguments)
        await asker("asking the mesh for offers")
        complete = await self._discovery.refresh_market(country)
        if probe:
            due = [each for each in self._listings(country, most)[:PROBED_MAX] if self._to_probe(each)]
            if due:
                await asker(f"trying {len(due)} of them" if len(due) > 1 else "trying one of them")
                await self._probing.probe(due)
        return {"complete": complete, "offers": await self._rows(country, most)}

    async def _on_market_watch(self, arguments: Arguments, asker: Asker) -> Result:
        await asker.watch(self._market(*_filter(arguments)))
        return {}

    async def _market(self, country: str, most: int | None, probe: bool) -> AsyncGenerator[Result, None]:
        """All offers whenever they are others than before."""
        shown: list[Result] | None = None
        refreshed = float("-inf")
        while True:
            if trio.current_time() - refreshed >= WATCH_REFRESH_SECONDS:
                refreshed = trio.current_time()
                await self._discovery.refresh_market(country)
            rows = await self._rows(country, most)
            if rows != shown:
                shown = rows
                yield {"offers": rows}
            due = [each for each in self._listings(country, most)[:PROBED_MAX] if self._to_probe(each)]
            if probe and due:
                await self._probing.probe(due[:1])
            else:
                await trio.sleep(WATCH_SECONDS)

    def _listings(self, country: str, most: int | None) -> list[Listing]:
        return self._discovery.market(country, most)

    def _to_probe(self, listing: Listing) -> bool:
        return is_due(listing) and listing.offer.machine_id != self._context.keys.machine_id

    async def _rows(self, country: str, most: int | None) -> list[Result]:
        own = self._context.keys.machine_id
        return [
            _offer(each, own, self._name(each.offer.machine_id))
            | {"tier": await self.tier_of(each.signer) if self.tier_of is not None else None}
            for each in self._listings(country, most)
        ]

    # ------------------------------------------------------------------ machines

    async def _on_lookup(self, arguments: Arguments, asker: Asker) -> Result:
        wanted = required(arguments, "machine")
        row = self._known(wanted)
        if row is not None:
            await asker(f"looking up {row.name}")
            secret = row.lookup_secret or listed_secret(row.machine_id)
            found = await self._discovery.find_machine(row.machine_id, row.bundle[:32], secret)
            return {"machines": [self._machine(row.machine_id, found)]}
        if is_slug(wanted.upper()):
            return {"machines": await self._claims(wanted.upper(), asker)}
        try:
            machine_id = parse_fingerprint(wanted)
        except BadFingerprint:
            known = ", ".join(sorted(each.name for each in self._context.peers.rows.values())) or "none yet"
            raise Usage(
                f"{wanted!r} is no peer's name (known: {known}), no slug and no whole fingerprint"
            ) from None
        await asker("looking it up")
        found = await self._discovery.find_machine(machine_id, None, listed_secret(machine_id))
        if found is None:
            raise Unreachable(
                "no machine of this fingerprint is listed; one that does not offer to be a relay is found "
                "only with its invitation"
            )
        return {"machines": [self._machine(machine_id, found)]}

    async def _claims(self, wanted: str, asker: Asker) -> list[Result]:
        await asker(f"asking who is called {wanted}")
        answer = await self._discovery.find_slug(wanted)
        if answer is None or not answer.claims:
            raise Unreachable(
                f"no listed machine is called {wanted}; one that does not offer to be a relay is found only "
                "with its invitation"
            )
        machines = []
        for bundle in answer.claims:
            await asker(f"looking up {fingerprint(bundle.machine_id)[:9]}")
            machine_id, secret = bundle.machine_id, listed_secret(bundle.machine_id)
            found = await self._discovery.find_machine(machine_id, bundle.ed25519, secret)
            machines.append(self._machine(machine_id, found))
        return machines

    def _known(self, wanted: str) -> PeerRow | None:
        try:
            return self._context.peers.find(wanted)
        except Usage:
            return None

    def _machine(self, machine_id: bytes, found: Location | None) -> Result:
        return {
            "name": self._name(machine_id),
            "slug": slug(machine_id),
            "fingerprint": fingerprint(machine_id),
            "found": found is not None,
            "addresses": [endpoints.text(each) for each in found.endpoints] if found is not None else [],
            "homes": [endpoints.text(home) for home, _ in found.homes] if found is not None else [],
            "age_s": max(0, unix_now() - found.sequence // 1000) if found is not None else None,
        }

    def _name(self, machine_id: bytes) -> str | None:
        row = self._context.peers.rows.get(machine_id)
        return row.name if row is not None else None

    async def _on_mesh(self, _arguments: Arguments, _asker: Asker) -> Result:
        rows = self._context.peers.rows.values()
        return {**self._discovery.status(), "peers": [self._status.peer(row) for row in rows]}

    # ------------------------------------------------------------------ tags

    async def _on_tags_tail(self, arguments: Arguments, asker: Asker) -> Result:
        await asker.watch(self._heard(required(arguments, "tag")))
        return {}

    async def _heard(self, pattern: str) -> AsyncGenerator[Result, None]:
        async with self._discovery.listen(pattern) as heard:
            async for event in heard:
                yield self._event(event)

    def _event(self, event: Tagged) -> Result:
        """An author is the machine_id of who sealed it to this machine, else the key that signed it."""
        try:
            text: str | None = event.body.decode()
        except UnicodeDecodeError:
            text = None
        private = bool(event.bundle)
        return {
            "tag": event.tag,
            "author": event.author.hex(),
            "name": self._name(event.author) if private else self._name_of_key(event.author),
            "private": private,
            "zeqond": event.zeqond,
            "text": text,
            "body": event.body.hex(),
        }

    def _name_of_key(self, ed25519: bytes) -> str | None:
        rows = self._context.peers.rows.values()
        return next((row.name for row in rows if row.bundle[:32] == ed25519), None)

    async def _on_tags_publish(self, arguments: Arguments, _asker: Asker) -> Result:
        tag, text = required(arguments, "tag"), required(arguments, "text")
        return {"tag": tag, "subscribers_notified": self._discovery.publish_tag(tag, text.encode())}


async def off(_arguments: Arguments, _asker: Asker) -> Result:
    """In place of each of these operations where discovery is off."""
    raise Usage(_OFF)


def _filter(arguments: Arguments) -> tuple[str, int | None, bool]:
    country, most = arguments.get("country") or ANY, arguments.get("max_per_gb")
    if not isinstance(country, str) or not (country == ANY or (len(country) == 2 and country.isalpha())):
        raise Usage(f"--country is a code of two letters, as DE or EU, not {country!r}")
    if most is not None and (type(most) is not int or most < 0):
        raise Usage(f"--max-per-gb is a whole number of ZEQ, not {most!r}")
    return country.upper(), most, arguments.get("probe") is not False


def _offer(listing: Listing, own: bytes, name: str | None) -> Result:
    machine_id, checked = listing.offer.machine_id, listing.checked
    return {
        "name": name,
        "slug": slug(machine_id),
        "fingerprint": fingerprint(machine_id),
        "own": machine_id == own,
        **described(listing.offer),
        "expires": listing.expires,
        "proven": listing.proven,
        "reachable": checked.reachable if checked is not None else None,
        "rtt_ms": round(checked.rtt_us / 1000, 1) if checked is not None and checked.rtt_us else None,
        "checked": checked.unix if checked is not None else None,
    }
