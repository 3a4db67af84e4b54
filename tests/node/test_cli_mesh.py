"""Discovery's commands as a person or a script meets them, over a real control socket."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from node import render_mesh
from node.control import Asker
from node.errors import Usage
from tests.node.test_cli import CAFE, command, environment, running, terminal

OFFER = {
    "per_gb": 50,
    "per_zeqond": 1,
    "max_tunnels": 8,
    "country": "DE",
    "accept": ["EU", "CH"],
    "since": 1_790_000_000,
}
RELAY = OFFER | {
    "name": None,
    "slug": "ZEQ07000000003",
    "fingerprint": "abcd-" * 12 + "abcd",
    "own": False,
    "expires": 1_790_007_200,
    "proven": True,
    "reachable": True,
    "rtt_ms": 12.3,
    "checked": 1_790_000_100,
    "tier": 2,
}
NAME = "ZEQ07000000003~abcd-abcd-abcd-abcd"
MACHINE = {
    "name": "cafe",
    "slug": "ZEQ07000000001",
    "fingerprint": "abcd-" * 12 + "abcd",
    "found": True,
    "addresses": ["203.0.113.7:51777"],
    "homes": ["198.51.100.9:51777"],
    "age_s": 125,
}
MESH = {
    "families": [
        {"family": 4, "contacts": 187, "serving": True, "endpoint": "203.0.113.7:51777"},
        {"family": 6, "contacts": 1, "serving": False, "endpoint": None},
    ],
    "homes": ["198.51.100.9:51777"],
    "lodgers": 2,
    "links": [{"endpoint": "198.51.100.8:51777", "since_s": 65, "eager": True, "score": 12}],
    "records": 21,
    "offers": 3,
    "counters": {"token refused": 5},
    "peers": [CAFE],
}
EVENT = {
    "tag": "weather.berlin",
    "author": "ab" * 32,
    "name": None,
    "private": False,
    "zeqond": 7,
    "text": "rain",
    "body": b"rain".hex(),
}


class StandIn:
    """Answers as the node does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.offer: dict[str, Any] | None = None
        self.warning: str | None = None
        self.machine = MACHINE
        self.complete = True

    async def __call__(self, op: str, arguments: dict[str, Any], asker: Asker) -> dict[str, Any]:
        self.asked.append((op, arguments))
        match op:
            case "relay":
                return {"offer": self.offer, "warning": self.warning}
            case "relay_offer":
                self.offer = OFFER
                return {"offer": OFFER, "warning": self.warning}
            case "relay_withdraw":
                if self.offer is None:
                    raise Usage("this machine offers nothing, so there is nothing to withdraw")
                return {"withdrawn": OFFER}
            case "market":
                await asker("asking the mesh for offers")
                return {"complete": self.complete, "offers": [RELAY]}
            case "market_watch":
                await asker.watch(self._forever({"offers": [RELAY]}))
            case "tags_tail":
                await asker.watch(self._forever(EVENT))
            case "tags_publish":
                return {"tag": arguments["tag"], "subscribers_notified": 1}
            case "lookup":
                return {"machines": [self.machine]}
            case "mesh":
                return MESH
        return {}

    async def _forever(self, item: dict[str, Any]) -> Any:
        while True:
            yield item
            await trio.sleep(0.05)


@pytest.fixture
def node() -> StandIn:
    return StandIn()


@pytest.fixture
def ask(node: StandIn, tmp_path: Path) -> Callable[..., Any]:
    """With the stand-in running: awaits (exit code, output, errors) of one command."""

    async def call(*words: str) -> tuple[int, str, str]:
        async with running(node, tmp_path):  # type: ignore[arg-type]
            done = await trio.run_process(
                command(*words, "--state", str(tmp_path)),
                capture_stdout=True,
                capture_stderr=True,
                env=environment(tmp_path),
                check=False,
            )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return call


# ---------------------------------------------------------------------------- relay


async def test_an_offer_is_made_shown_and_withdrawn(node: StandIn, ask: Callable[..., Any]) -> None:
    code, out, _ = await ask("relay")
    assert (code, "sudo zeqnode relay offer" in out) == (0, True)
    code, out, err = await ask("relay", "offer", "--per-gb", "50", "--country", "de", "--accept", "eu, ch")
    assert (code, err) == (0, "")
    assert node.asked[-1] == (
        "relay_offer",
        {"per_gb": 50, "per_zeqond": 0, "country": "DE", "max_tunnels": 8, "accept": ["EU", "CH"]},
    )
    assert "50 ZEQ per GB" in out
    assert "sudo zeqnode relay withdraw" in out
    assert "EU, CH" in (await ask("relay"))[1]
    assert json.loads((await ask("relay", "--json"))[1]) == {"offer": OFFER, "warning": None}
    assert (await ask("relay", "withdraw"))[:2] == (0, "The offer is withdrawn.\n")


async def test_an_offer_that_is_no_use_yet_comes_with_a_warning(
    node: StandIn, ask: Callable[..., Any]
) -> None:
    node.warning = "install nftables"
    for words in (["relay", "offer", "--per-gb", "50"], ["relay"]):
        code, out, err = await ask(*words)
        assert (code, "50 ZEQ per GB" in out, err) == (0, True, "Warning: install nftables\n")


async def test_a_price_is_needed_and_nothing_is_withdrawn_twice(ask: Callable[..., Any]) -> None:
    code, out, err = await ask("relay", "offer")
    assert (code, out, "--per-gb" in err) == (2, "", True)
    code, out, err = await ask("relay", "withdraw")
    assert (code, out, "nothing to withdraw" in err) == (2, "", True)


# ---------------------------------------------------------------------------- market


async def test_the_market_is_a_table_with_what_was_checked(node: StandIn, ask: Callable[..., Any]) -> None:
    code, out, err = await ask("market", "--country", "eu", "--max-per-gb", "60")
    assert (code, err) == (0, "asking the mesh for offers …\n")
    assert node.asked == [("market", {"country": "EU", "max_per_gb": 60, "probe": True})]
    head, row = out.splitlines()
    assert head.split() == ["RELAY", "FROM", "ACCEPTS", "ZEQ/GB", "ZEQ/ZEQOND", "TUNNELS", "TIER", "CHECKED"]
    assert row.split()[:8] == [NAME, "DE", "EU,CH", "50", "1", "8", "2", "reached"]
    node.complete = False
    code, out, err = await ask("market", "--no-probe", "--json")
    assert node.asked[-1][1]["probe"] is False
    assert json.loads(out)["offers"] == [RELAY]
    assert "there may be more" not in out


@pytest.mark.parametrize(
    ("words", "op"), [(["market", "--watch"], "market_watch"), (["tags", "tail", "a"], "tags_tail")]
)
async def test_what_is_watched_is_one_json_a_line_until_ctrl_c(
    words: list[str], op: str, node: StandIn, tmp_path: Path
) -> None:
    async with running(node, tmp_path), trio.open_nursery() as nursery:  # type: ignore[arg-type]
        process = await trio.lowlevel.open_process(
            command(*words, "--json", "--state", str(tmp_path)),
            stdout=subprocess.PIPE,
            env=environment(tmp_path),
        )
        nursery.start_soon(process.wait)
        assert process.stdout
        seen = b""
        while seen.count(b"\n") < 2:
            seen += await process.stdout.receive_some()
        process.send_signal(signal.SIGINT)
        lines = [json.loads(line) for line in seen.splitlines()[:2]]
        assert lines == [EVENT if op == "tags_tail" else {"offers": [RELAY]}] * 2
        assert await process.wait() == 130
    assert node.asked[0][0] == op


async def test_a_node_that_stops_ends_a_watch_with_a_sentence(node: StandIn, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        ended: list[tuple[int, str]] = []

        async def tail() -> None:
            done = await trio.run_process(
                command("tags", "tail", "a", "--state", str(tmp_path)),
                capture_stdout=True,
                capture_stderr=True,
                env=environment(tmp_path),
                check=False,
            )
            ended.append((done.returncode, done.stderr.decode()))

        async with running(node, tmp_path):  # type: ignore[arg-type]
            nursery.start_soon(tail)
            while not node.asked:  # noqa: ASYNC110  another process asks
                await trio.sleep(0.02)
    assert ended == [
        (1, "zeqnode: the node stopped before it answered; see whether it runs: zeqnode status\n")
    ]


async def test_the_market_on_a_terminal_is_coloured_by_what_was_checked(
    node: StandIn, tmp_path: Path
) -> None:
    async with running(node, tmp_path):  # type: ignore[arg-type]
        code, shown = await terminal(tmp_path, "market")
    assert (code, "\x1b[32mZEQ07000000003" in shown) == (0, True)


def test_every_kind_of_check_has_its_words() -> None:
    kinds = [
        RELAY | {"own": True, "checked": None, "reachable": None, "rtt_ms": None},
        RELAY | {"name": "cafe", "reachable": False, "rtt_ms": None, "country": None},
        RELAY | {"rtt_ms": None},
    ]
    own, gone, there = render_mesh.market({"offers": kinds}).plain.splitlines()[1:]
    assert own.split()[:3] == ["this", "machine", "DE"]
    assert own.endswith("–")
    assert gone.startswith("cafe")
    assert "not reached, " in gone
    assert "reached, " in there
    assert "sudo zeqnode relay offer" in render_mesh.market({"offers": []}).plain


# ---------------------------------------------------------------------------- peers, lookup, tags


async def test_peers_shows_ones_own_machines_and_then_the_mesh(ask: Callable[..., Any]) -> None:
    code, out, err = await ask("peers")
    assert (code, err) == (0, "")
    for words in (
        "cafe",
        "connected",
        "IPv4         187 nodes known, serves others, 203.0.113.7:51777",
        "IPv6         1 node known, only asks, where others see us is not known yet",
        "homes        198.51.100.9:51777; lodgers here: 2",
        "gossip       1 neighbour; 21 records kept, 3 offers known",
        "198.51.100.8:51777  1 min 5 s  yes        12",
    ):
        assert words in out
    assert json.loads((await ask("peers", "--json"))[1]) == MESH


def test_a_node_that_knows_nobody_says_so() -> None:
    text = render_mesh.mesh(MESH | {"peers": [], "links": [], "homes": []}).plain
    assert "Invite one: sudo zeqnode invite NAME" in text
    assert "homes        none" in text
    assert "NEIGHBOUR" not in text


async def test_lookup_shows_where_a_machine_is(node: StandIn, ask: Callable[..., Any]) -> None:
    code, out, err = await ask("lookup", "cafe")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "cafe ZEQ07000000001",
        f"  fingerprint  {MACHINE['fingerprint']}",
        "  addresses    203.0.113.7:51777",
        "  homes        198.51.100.9:51777",
        "  as of        2 min 5 s ago",
    ]
    node.machine = MACHINE | {"found": False, "addresses": [], "homes": [], "age_s": None}
    for more in ([], ["--json"]):
        code, out, err = await ask("lookup", "cafe", *more)
        assert (code, err.startswith("zeqnode: no record of cafe is in the DHT now")) == (4, True)
        assert ("no record of where it is" in out) != bool(more)


async def test_a_tag_event_is_published(node: StandIn, ask: Callable[..., Any]) -> None:
    code, out, err = await ask("tags", "publish", "weather.berlin", "--5 °C")
    assert (code, out, err) == (0, "Published weather.berlin.\n", "")
    assert node.asked == [("tags_publish", {"tag": "weather.berlin", "text": "--5 °C"})]


def test_an_authors_text_cannot_steer_the_terminal() -> None:
    line = render_mesh.tag_event(EVENT | {"text": "\x1b[2J\r\nrain\u202e", "private": True, "name": "cafe"})
    assert line == "weather.berlin  cafe  (to this machine)  �[2J��rain�"
    assert render_mesh.tag_event(EVENT | {"text": None, "body": "ff00"}).endswith("2 bytes, ff00")
