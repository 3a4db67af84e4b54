"""A node for the API's tests: it keeps tunnels, offers and secrets in memory and does with them what a node
does, but nobody else is there. And how a test speaks to it: raw HTTP over a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import trio

from crypto.identity import fingerprint
from crypto.keyex import commitment
from node.api import faults
from node.api.backend import (
    TUNNELS_MAX,
    Accepted,
    Caller,
    Happening,
    KeyexAnswer,
    KeyexKey,
    ListOffer,
    OfferInfo,
    Pohc,
    Requested,
    SslInitiated,
    SslResponded,
    State,
    Terminated,
    TunnelInfo,
    TunnelRequest,
    split_name,
)
from node.api.server import serve
from node.api.settings import ApiSettings
from node.settlement.terms import MILLIONTHS, Unit, agree
from node.tokens import Tokens, open_tokens
from node.tunnels.keys import purpose

OWN, RELAY, FULL, PLAIN, DEAR, RIVALS = (f"ZEQ0700000000{digit}" for digit in (1, 7, 8, 9, 6, 5))
NOW_MS = 1_782_141_154_600
SECRET = b"\x07" * 32


def machine(slug: str) -> bytes:
    return sha256(slug.encode()).digest()


class StandIn:
    """`OWN` is this node. RELAY takes tunnels; FULL, PLAIN (no relay), DEAR and RIVALS (two) do not."""

    def __init__(self) -> None:
        self.rows: dict[bytes, TunnelInfo] = {}
        self.ended: dict[bytes, Terminated] = {}
        self.secrets: dict[str, bytes] = {}
        self.readers: dict[str, str] = {}
        self.offers: dict[str, OfferInfo] = {RELAY: _offer(RELAY, 50, ("EU",))}
        self.happenings: list[Happening] = []
        self.happens = trio.Event()  # before what is in `happenings`, if `late`
        self.late = False
        self.forever = False
        self.fail: BaseException | None = None
        self.zeqond = 2_293_617_891

    def own_slugs(self) -> frozenset[str]:
        return frozenset({OWN})

    async def request_tunnel(self, request: TunnelRequest) -> Requested:
        self._fail()
        slug, beginning = split_name(request.target_slug)
        if slug == RIVALS and not beginning:
            claims = tuple(faults.Claim(fingerprint(machine(each)), slug) for each in ("one", "other"))
            raise faults.SlugUnpinned(f"two machines are called {slug}; say which", claims)
        if slug == OWN:
            raise faults.InvalidTarget("that is this machine itself; name another one")
        refused: dict[str, faults.ApiFault] = {
            FULL: faults.TargetFull("it serves as many as it may; try another"),
            PLAIN: faults.TargetNotRelay("it does not offer to be a relay; see the marketplace"),
            DEAR: faults.InsufficientBalance("it extends too little credit; ask for less"),
        }
        if slug in refused:
            raise refused[slug]
        if slug not in (RELAY, RIVALS):
            raise faults.TargetNotFound(f"no listed machine is called {slug}")
        tunnel_id = sha256(b"tunnel %d" % len(self.rows)).digest()[:16]
        self._add(tunnel_id, OWN, slug, request)
        return Requested(
            tunnel_id=tunnel_id,
            state=State.PENDING,
            rate_zeq_per_unit=50,
            min_required_zeq=5000,
            balance_zeq=12345,
            subscribers_notified=3,
        )

    def asked(self, requester: str = RELAY) -> bytes:
        """As if another machine had asked this one; the tunnel's id."""
        tunnel_id = sha256(b"asked %d" % len(self.rows)).digest()[:16]
        request = TunnelRequest(
            requester_slug=requester, target_slug=OWN, requested_lifespan_zeqonds=1000, pricing_unit="gb"
        )
        self._add(tunnel_id, requester, OWN, request)
        return tunnel_id

    def _add(self, tunnel_id: bytes, requester: str, accepter: str, request: TunnelRequest) -> None:
        self.rows[tunnel_id] = TunnelInfo(
            tunnel_id=tunnel_id,
            state=State.PENDING,
            requester_slug=requester,
            accepter_slug=accepter,
            peer_fingerprint=fingerprint(machine(accepter if requester == OWN else requester)),
            pricing_unit=request.pricing_unit,
            rate_zeq_per_unit=50,
            requested_lifespan_zeqonds=request.requested_lifespan_zeqonds,
            created_at_zeqond=self.zeqond,
        )

    async def accept(self, tunnel_id: bytes, accepter_slug: str) -> Accepted:
        row = self._row(tunnel_id)
        if row.accepter_slug != accepter_slug:
            raise faults.NotParty("another machine was asked; only that one can accept")
        if row.state is not State.PENDING:
            raise faults.InvalidState(f"the tunnel is {row.state}; only a pending one can be accepted")
        self.rows[tunnel_id] = replace(row, state=State.ACTIVE, started_at_zeqond=self.zeqond)
        self.secrets[purpose(tunnel_id)] = SECRET
        return Accepted(tunnel_id=tunnel_id, state=State.ACTIVE, started_at_zeqond=self.zeqond)

    async def terminate(
        self, tunnel_id: bytes, terminator_slug: str, cumulative_bytes: int, cumulative_zeqonds: int
    ) -> Terminated:
        row = self._row(tunnel_id)
        if terminator_slug not in (row.requester_slug, row.accepter_slug):
            raise faults.NotParty("this tunnel is of two other machines")
        if tunnel_id not in self.ended:
            terms = agree(Unit(row.pricing_unit), row.rate_zeq_per_unit, row.requested_lifespan_zeqonds)
            charged = terms.final(cumulative_bytes, cumulative_zeqonds)
            self.rows[tunnel_id] = replace(row, state=State.TERMINATED, ended_at_zeqond=self.zeqond)
            self.ended[tunnel_id] = Terminated(
                tunnel_id=tunnel_id,
                state=State.TERMINATED,
                cumulative_bytes=cumulative_bytes,
                cumulative_zeqonds=cumulative_zeqonds,
                total_zeq_charged=-(-charged // MILLIONTHS),
                charged_millionths=charged,
                ended_at_zeqond=self.zeqond,
            )
        return self.ended[tunnel_id]

    def _row(self, tunnel_id: bytes) -> TunnelInfo:
        self._fail()
        if tunnel_id not in self.rows:
            raise faults.NotFound("there is no tunnel of this id; see /api/vpn/tunnels")
        return self.rows[tunnel_id]

    def _fail(self) -> None:
        if self.fail is not None:
            raise self.fail

    async def tunnels(self, slug: str) -> list[TunnelInfo]:
        self._fail()
        return list(self.rows.values())[: -TUNNELS_MAX - 1 : -1]

    async def marketplace(self, country: str | None, max_zeq_per_gb: int | None) -> list[OfferInfo]:
        self._fail()
        return [
            each
            for each in self.offers.values()
            if (country is None or {country, "ANY"} & set(each.accept_country_classes))
            and (max_zeq_per_gb is None or each.price_per_gb_zeq <= max_zeq_per_gb)
        ]

    async def list_offer(self, offer: ListOffer) -> OfferInfo:
        made = replace(
            _offer(offer.slug, offer.price_per_gb_zeq, offer.accept_country_classes),
            price_per_zeqond_zeq=offer.price_per_zeqond_zeq,
            max_concurrent_tunnels=offer.max_concurrent_tunnels,
            country=offer.country,
            active=offer.active,
        )
        self.offers.pop(offer.slug, None)
        if offer.active:
            self.offers[offer.slug] = made
        return made

    async def keyex_pubkey(self, slug: str) -> KeyexKey:
        slug = self._known(slug)
        public = sha256(machine(slug)).digest() * 37
        return KeyexKey(public_key=public, fingerprint=sha256(public).hexdigest(), machine_id=machine(slug))

    async def keyex_handshake(self, slug: str, cipher_text: bytes) -> KeyexAnswer:
        slug = self._known(slug)
        return KeyexAnswer(
            key_confirmation=sha256(cipher_text).digest() + bytes(16), machine_id=machine(slug)
        )

    async def ssl_initiate(
        self, local_machine: str, peer_origin: str, peer_machine: str, expected_fingerprint: str
    ) -> SslInitiated:
        key = await self.keyex_pubkey(peer_machine)
        if expected_fingerprint.lower() != key.fingerprint:
            raise faults.FingerprintMismatch(f"the peer's key has the fingerprint {key.fingerprint}")
        cipher_text = sha256(key.public_key).digest() * 34
        return SslInitiated(
            cipher_text=cipher_text,
            seed_commitment=commitment(cipher_text),
            peer_machine_id=key.machine_id,
            fingerprint=key.fingerprint,
        )

    async def ssl_respond(self, local_machine: str, peer_machine: str, cipher_text: bytes) -> SslResponded:
        slug = self._known(peer_machine)
        return SslResponded(seed_commitment=commitment(cipher_text), peer_machine_id=machine(slug))

    def _known(self, name: str) -> str:
        self._fail()
        slug = split_name(name)[0]
        if slug not in (OWN, RELAY):
            raise faults.TargetNotFound(f"no listed machine is called {slug}")
        return slug

    async def secret(self, purpose: str, caller: Caller) -> bytes:
        self._fail()
        if purpose not in self.secrets:
            raise faults.NotFound("the vault has no secret of this name; see: zeqnode vault list")
        if self.readers.get(purpose, caller.name) != caller.name:
            raise faults.NotPermitted("the secret's permissions do not name you")
        return self.secrets[purpose]

    async def pohc(self, slug: str | None) -> Pohc:
        slug = self._known(slug or OWN)
        return Pohc(slug=slug, tier=1, score=12, how="3 receipts of 2 partners", inputs={"receipts": 3})

    async def events(self) -> AsyncGenerator[Happening, None]:
        if self.late:
            await self.happens.wait()
        for each in self.happenings:
            yield each
        self._fail()
        while self.forever:
            await trio.sleep_forever()


def _offer(slug: str, per_gb: int, classes: tuple[str, ...]) -> OfferInfo:
    return OfferInfo(
        slug=slug,
        fingerprint=fingerprint(machine(slug)),
        price_per_gb_zeq=per_gb,
        price_per_zeqond_zeq=1,
        max_concurrent_tunnels=8,
        accept_country_classes=classes,
        country="DE",
        active=True,
        proven=True,
        rtt_ms=12.3,
        reachable=True,
    )


@dataclass
class Reply:
    """`headers`: names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def code(self) -> str:
        """Of an error, whose form is checked, too."""
        assert self.headers["content-type"] == "application/json"
        found = self.json
        assert (
            {"error", "code", "zeqond", "phase"}
            <= found.keys()
            <= {"error", "code", "zeqond", "phase", "claims"}
        )
        code: str = found["code"]
        return code


@dataclass
class Api:
    """A running API, and the texts of a token to write with and of one to read with."""

    node: StandIn
    tokens: Tokens
    address: tuple[str, int]
    write: str
    read: str
    socket: Path | None = None
    more: dict[str, str] = field(default_factory=dict)

    async def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = "",
        **headers: str,
    ) -> Reply:
        """With the token to write with unless another, or None, is given. Header names with _ for -."""
        given = {"host": f"127.0.0.1:{self.address[1]}", "connection": "close"}
        if token is not None:
            given["authorization"] = f"Bearer {token or self.write}"
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            given |= {"content-type": "application/json", "content-length": str(len(data))}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        return await self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)

    async def get(self, path: str, **more: Any) -> Reply:
        return await self("GET", path, **more)

    async def post(self, path: str, body: object = None, **more: Any) -> Reply:
        return await self("POST", path, body, **more)

    async def raw(self, data: bytes) -> Reply:
        """What comes back for these bytes, up to the end of the connection."""
        stream = await trio.open_tcp_stream(*self.address)
        async with stream:
            await stream.send_all(data)
            return parsed(await everything(stream))


async def everything(stream: trio.abc.Stream) -> bytes:
    found = b""
    with trio.fail_after(30):
        async for part in stream:
            found += part
    return found


def parsed(data: bytes) -> Reply:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    return Reply(int(first.split()[1]), headers, body)


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        whole += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return whole


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Api]:
    """An API on a free port of 127.0.0.1, over a stand-in."""
    node = StandIn()
    config = ApiSettings(port=0, **settings)
    async with open_tokens(folder / "tokens.db") as tokens, trio.open_nursery() as nursery:
        served = await nursery.start(partial(serve, config, node, tokens, lambda: NOW_MS))
        host, _, port = served[0].rpartition(":")
        _, write = await tokens.new("writer", "write", 1)
        _, read = await tokens.new("reader", "read", 1)
        yield Api(node, tokens, (host, int(port)), write, read, config.socket)
        nursery.cancel_scope.cancel()
