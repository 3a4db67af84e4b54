"""The API's examples of the seeds, sent with curl to a running mesh of three nodes whose slugs are pinned."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from crypto.kem import RealPrimitives
from crypto.pulse import PULSE_HZ
from node.tunnels.shown import identifier
from simulations.lab.lab import Lab
from tests.lab.nodes import Node, eventually, join, needs_tun

pytestmark = [pytest.mark.lab, needs_tun]

TOWNS = {"seed": 1, "relay": 2, "guest": 3}
WORLD = "[routers.internet]\n" + "".join(
    f'[hosts.{name}]\n[links.{name}]\nends = ["internet", "{name}"]\nsubnet = "203.{number}.113.0/24"\n'
    for name, number in TOWNS.items()
)
STAMP = {"zeqond": int, "phase": float}


class Api:
    """One node's API, as curl on its own host has it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        made = node.command("token", "new", "test", "--json")
        assert made.returncode == 0, made.stderr
        self.token = json.loads(made.stdout)["token"]
        shown = json.loads(node.command("id", "--json").stdout)
        self.slug, self.fingerprint = shown["slug"], shown["fingerprint"]
        self.name = f"{self.slug}~{self.fingerprint[:19]}"
        eventually(lambda: self.get("/api/status")[0] == 200, 20, "the API answers")

    def get(self, path: str, *, anonymous: bool = False) -> tuple[int, dict[str, Any]]:
        return self._curl(path, None, anonymous)

    def post(self, path: str, body: object, *, anonymous: bool = False) -> tuple[int, dict[str, Any]]:
        return self._curl(path, json.dumps(body), anonymous)

    def _curl(self, path: str, body: str | None, anonymous: bool) -> tuple[int, dict[str, Any]]:
        words = ["curl", "-sS", "--max-time", "60", "-w", "\n%{http_code}"]
        if not anonymous:
            words += ["-H", f"Authorization: Bearer {self.token}"]
        if body is not None:
            words += ["-H", "content-type: application/json", "-d", body]
        done: subprocess.CompletedProcess[str] = self.node.host.run(
            [*words, f"http://127.0.0.1:7777{path}"], check=False
        )
        text, _, status = done.stdout.rpartition("\n")
        return int(status or 0), json.loads(text) if text else {}


def shape(answer: dict[str, Any], **fields: type | object) -> None:
    """Just these fields and the stamp; each of this type, or this value."""
    assert set(answer) == {*fields, *STAMP}, answer
    for name, wanted in {**fields, **STAMP}.items():
        found = answer[name]
        if isinstance(wanted, type):
            assert type(found) is wanted, (name, found)
        else:
            assert found == wanted, (name, found)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Api]]:
    """relay decides by hand."""
    folder = tmp_path_factory.mktemp("api")
    with Lab.from_toml(WORLD) as lab:
        seeds = [f"{lab.host('seed').address('seed')}:51777"]
        nodes = {}
        for name in TOWNS:
            dht = {"lan": False, "seeds": seeds if name != "seed" else []}
            nodes[name] = Node(lab.host(name), folder, {"dht": dht, "relay": {"accept": "hand"}, "api": {}})
        try:
            for node in nodes.values():
                node.start()
            yield {name: Api(node) for name, node in nodes.items()}
        finally:
            for node in nodes.values():
                node.stop()


def test_the_examples_of_the_seeds_are_answered_as_the_seeds_show(mesh: dict[str, Api]) -> None:
    relay, guest = mesh["relay"], mesh["guest"]
    offer = {
        "slug": relay.slug,
        "price_per_gb_zeq": 50,
        "price_per_zeqond_zeq": 1,
        "max_concurrent_tunnels": 8,
        "accept_country_classes": ["EU", "ANY"],
        "active": True,
    }
    status, _ = relay.post("/api/vpn/marketplace/list", offer)
    assert status == 200
    assert relay.post("/api/vpn/marketplace/list", offer)[0] == 200  # idempotent

    def listed() -> list[dict[str, Any]]:
        status, found = guest.get("/api/vpn/marketplace?country=EU&max_zeq_per_gb=60", anonymous=True)
        assert status == 200, found
        (rows,) = [value for value in found.values() if isinstance(value, list)]
        return rows

    offers = eventually(listed, 30, "the offer is in the market")
    assert [(each["slug"], each["price_per_gb_zeq"]) for each in offers] == [(relay.slug, 50)]
    assert guest.get("/api/vpn/marketplace?max_zeq_per_gb=49", anonymous=True)[1]["offers"] == []

    request = {
        "requester_slug": guest.slug,
        "target_slug": relay.slug,
        "requested_lifespan_zeqonds": 1000,
        "cover_traffic": False,
        "multi_hop": False,
        "pricing_unit": "gb",
    }
    status, unpinned = guest.post("/api/vpn/tunnel/handshake-request", request)
    assert (status, unpinned["code"]) == (409, "SLUG_UNPINNED")
    assert unpinned["claims"] == [{"fingerprint": relay.fingerprint, "slug": relay.slug}]

    pinned = request | {"target_slug": relay.name}  # from now on the slug stands for it
    status, first = guest.post("/api/vpn/tunnel/handshake-request", pinned)
    assert status == 200, first
    assert guest.post(f"/api/vpn/tunnel/{first['tunnel_id']}/terminate", ending(guest))[0] == 200
    status, made = guest.post("/api/vpn/tunnel/handshake-request", request)
    assert status == 200, made
    tunnel_id = made["tunnel_id"]
    shape(
        made,
        ok=True,
        tunnel_id=str,
        state="pending",
        key_purpose_id=f"vpn.tunnel.{tunnel_id}.key",
        rate_zeq_per_unit=50,
        min_required_zeq=5000,
        balance_zeq=int,
        subscribers_notified=1,
        pulse_hz=PULSE_HZ,
    )
    assert made["balance_zeq"] >= made["min_required_zeq"]

    accept = {"tunnel_id": tunnel_id, "accepter_slug": relay.slug}
    status, wrong = guest.post("/api/vpn/tunnel/handshake-accept", accept | {"accepter_slug": guest.slug})
    assert (status, wrong["code"]) == (403, "NOT_PARTY")
    status, accepted = relay.post("/api/vpn/tunnel/handshake-accept", accept)
    assert status == 200, accepted
    url = f"/api/zsc/get/vpn.tunnel.{tunnel_id}.key"
    shape(
        accepted,
        ok=True,
        tunnel_id=tunnel_id,
        state="active",
        key_purpose_id=f"vpn.tunnel.{tunnel_id}.key",
        started_at_zeqond=int,
        encrypted_key_fetch_url=str,
    )
    assert accepted["encrypted_key_fetch_url"] == quote(url, safe="/")
    again = relay.post("/api/vpn/tunnel/handshake-accept", accept)
    assert (again[0], again[1]["code"]) == (409, "INVALID_STATE")

    def secret(api: Api) -> str:
        status, found = api.get(url)
        return str(found["secret"]) if status == 200 else ""

    keys = [eventually(lambda api=api: secret(api), 20, "its secret is parked") for api in (relay, guest)]  # type: ignore[misc]
    assert keys[0] == keys[1]
    assert len(b64decode(keys[0])) == 32

    listing = guest.get(f"/api/vpn/tunnels?slug={guest.slug}")[1]["tunnels"]
    assert [each["state"] for each in listing] == ["active", "terminated"]
    assert guest.get(f"/api/vpn/tunnels?slug={relay.slug}")[1]["code"] == "NOT_OWNER"

    status, ended = guest.post(f"/api/vpn/tunnel/{tunnel_id}/terminate", ending(guest))
    assert status == 200, ended
    assert {"ok", "tunnel_id", "state", "cumulative_bytes", "cumulative_zeqonds", "total_zeq_charged"} <= set(
        ended
    )
    assert (ended["state"], ended["total_zeq_charged"]) == ("terminated", 0)
    status, twice = guest.post(f"/api/vpn/tunnel/{tunnel_id}/terminate", ending(guest))
    assert {**twice, "zeqond": 0, "phase": 0} == {**ended, "zeqond": 0, "phase": 0}
    assert secret(guest) == ""

    status, _ = relay.post("/api/vpn/marketplace/list", offer | {"active": False})
    assert status == 200
    eventually(lambda: not listed(), 30, "the offer is gone")
    refused = guest.post("/api/vpn/tunnel/handshake-request", request)
    assert (refused[0], refused[1]["code"]) in [(409, "TARGET_NOT_RELAY"), (404, "TARGET_NOT_FOUND")]


def ending(api: Api) -> dict[str, Any]:
    return {"terminator_slug": api.slug, "cumulative_bytes": 734003200, "cumulative_zeqonds": 472}


def test_keys_are_exchanged_with_another_machine_and_a_seed_is_agreed(mesh: dict[str, Api]) -> None:
    relay, guest = mesh["relay"], mesh["guest"]
    offer = {
        "slug": relay.slug,
        "price_per_gb_zeq": 50,
        "price_per_zeqond_zeq": 1,
        "max_concurrent_tunnels": 8,
        "accept_country_classes": ["ANY"],
        "active": True,
    }
    assert relay.post("/api/vpn/marketplace/list", offer)[0] == 200

    def asked() -> dict[str, Any]:
        status, found = guest.get(f"/api/keyex/{relay.name}/pubkey", anonymous=True)
        return found if status == 200 else {}

    key = eventually(asked, 40, "the other machine's key is there")
    shape(key, public_key=str, fingerprint=str, machine_id=str, alg="ML-KEM-768")
    assert key["fingerprint"] == relay.get(f"/api/keyex/{relay.slug}/pubkey")[1]["fingerprint"]

    _, cipher_text = RealPrimitives().encapsulate(b64decode(key["public_key"]))
    sent = {"cipher_text": b64encode(cipher_text).decode()}
    status, confirmed = guest.post(f"/api/keyex/{relay.name}/handshake", sent)
    assert status == 200, confirmed
    assert len(b64decode(confirmed["key_confirmation"])) == 48

    begin = {
        "local_machine": guest.slug,
        "peer_origin": "https://zeqond.com",
        "peer_machine": relay.name,
        "expected_fingerprint": "00" * 32,
    }
    status, wrong = guest.post("/api/ssl/peer-seed/keyex/initiate", begin)
    assert (status, wrong["code"]) == (409, "fingerprint_mismatch")
    begin["expected_fingerprint"] = key["fingerprint"]
    status, made = guest.post("/api/ssl/peer-seed/keyex/initiate", begin)
    assert status == 200, made
    answer = {
        "local_machine": relay.slug,
        "peer_machine": guest.name,
        "cipher_text": made["cipher_text"],
    }
    status, agreed = relay.post("/api/ssl/peer-seed/keyex/respond", answer)
    assert status == 200, agreed  # it is listed nowhere, but has asked the relay for its key
    assert agreed["seed_commitment"] == made["seed_commitment"]
    assert relay.get("/api/protocol/pohc")[0] == 200


def test_every_code_of_the_seeds_is_provoked(mesh: dict[str, Api]) -> None:
    guest, relay = mesh["guest"], mesh["relay"]
    request = {
        "requester_slug": guest.slug,
        "target_slug": relay.name,
        "requested_lifespan_zeqonds": 1000,
        "cover_traffic": False,
        "multi_hop": False,
        "pricing_unit": "gb",
    }
    path = "/api/vpn/tunnel/handshake-request"
    unknown = identifier(bytes(16))
    for changed, status, code in (
        ({"target_slug": "nobody"}, 400, "INVALID_TARGET"),
        ({"target_slug": guest.slug}, 400, "INVALID_TARGET"),
        ({"pricing_unit": "hour"}, 400, "INVALID_PRICING_UNIT"),
        ({"requested_lifespan_zeqonds": 9}, 400, "INVALID_LIFESPAN"),
        ({"requested_lifespan_zeqonds": 86_401}, 400, "INVALID_LIFESPAN"),
        ({"target_slug": "ZEQ07000000003"}, 404, "TARGET_NOT_FOUND"),
        ({"requester_slug": relay.slug}, 403, "NOT_OWNER"),
        ({"cover_traffic": True}, 400, "UNSUPPORTED"),
        ({"multi_hop": True}, 400, "UNSUPPORTED"),
    ):
        found = guest.post(path, request | changed)
        assert (found[0], found[1]["code"]) == (status, code), (changed, found)
    assert guest.post(path, request, anonymous=True)[1]["code"] == "UNAUTHORIZED"
    missing = guest.post(f"/api/vpn/tunnel/{unknown}/terminate", ending(guest))
    assert (missing[0], missing[1]["code"]) == (404, "NOT_FOUND")


STREAM = """
import base64, sys, trio
from node.zeqssl import Shared, open_stream, serve
role, host, own, peer, seed = sys.argv[1:]
shared = Shared.of(bytes.fromhex(own), bytes.fromhex(peer), base64.b64decode(seed))

async def back(stream, machine_id):
    assert machine_id.hex() == peer
    got = b"".join([piece async for piece in stream])
    await stream.send_all(got[::-1])

async def main():
    if role == "serve":
        await serve(back, host, 4443, lambda: [shared])
    async with await open_stream(host, 4443, shared) as stream:
        await stream.send_all(bytes(range(256)) * 4096)
        await stream.send_eof()
        got = b"".join([piece async for piece in stream])
    assert got == (bytes(range(256)) * 4096)[::-1]
    print("back")

trio.run(main)
"""


def test_a_zeqssl_stream_goes_through_the_tunnel_of_two_peers(mesh: dict[str, Api]) -> None:
    """From nothing: an invitation, the published key, a seed by the two endpoints, and a Python stream."""
    home, cafe = mesh["seed"], mesh["guest"]
    join(home.node, cafe.node)
    key = cafe.get(f"/api/keyex/{home.slug}/pubkey")[1]
    begin = {
        "local_machine": cafe.slug,
        "peer_origin": f"https://{home.slug}.zeq",
        "peer_machine": home.slug,
        "expected_fingerprint": key["fingerprint"],
    }
    status, made = cafe.post("/api/ssl/peer-seed/keyex/initiate", begin)
    assert status == 200, made
    given = {"local_machine": home.slug, "peer_machine": cafe.slug, "cipher_text": made["cipher_text"]}
    assert (
        home.post("/api/ssl/peer-seed/keyex/respond", given)[1]["seed_commitment"] == made["seed_commitment"]
    )

    ids = {api: api.get(f"/api/keyex/{api.slug}/pubkey")[1]["machine_id"] for api in (home, cafe)}
    seeds = [
        one.get(f"/api/zsc/get/ssl.mode-b.{ids[other]}.seed")[1]["secret"]
        for one, other in ((home, cafe), (cafe, home))
    ]
    assert seeds[0] == seeds[1]
    address = json.loads(home.node.command("id", "--json").stdout)["address"]
    words = [sys.executable, "-c", STREAM]
    server = home.node.host.popen(
        [*words, "serve", address, ids[home], ids[cafe], seeds[0]], log=home.node.log.with_name("stream.log")
    )
    try:
        eventually(lambda: "4443" in home.node.host.run(["ss", "-ltnH"]).stdout, 15, "it listens")
        done = cafe.node.host.run([*words, "open", address, ids[cafe], ids[home], seeds[1]], check=False)
        assert (done.returncode, done.stdout) == (0, "back\n"), done.stderr
    finally:
        server.kill()
        server.wait()
