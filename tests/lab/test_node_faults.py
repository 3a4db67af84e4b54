"""Whole nodes that cannot have what they need: one sentence that says what to do, an exit code, and nothing
lost or half-made."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from crypto.identity import MachineKeys, sign
from node.errors import UserError
from node.invitation import encode, parse
from simulations.lab.lab import Host, Lab
from tests.lab.nodes import (
    COMMAND,
    Node,
    Sections,
    SmallDisk,
    as_nobody,
    eventually,
    join,
    needs_tun,
    reaches,
    refusal,
)

pytestmark = [pytest.mark.lab, needs_tun]

AIR = """
[hosts.home]
[hosts.cafe]
[hosts.hut]
[hosts.shed]
[links.air]
ends = ["home", "cafe", "hut", "shed"]
subnet = "10.80.0.0/24"
"""
KEY, OTHER_KEY = "a1" * 32, "b2" * 32


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.from_toml(AIR) as built:
        yield built


@pytest.fixture(scope="module")
def home(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """It runs and invites; what goes wrong goes wrong beside it or at the others."""
    return Node(lab.host("home"), tmp_path_factory.mktemp("home")).start()


@pytest.fixture
def cafe(lab: Lab, tmp_path: Path) -> Iterator[Node]:
    """Another that runs, for one test."""
    with Node(lab.host("cafe"), tmp_path) as node:
        yield node


@pytest.fixture
def shed(lab: Lab, tmp_path: Path) -> Iterator[Node]:
    with Node(lab.host("shed"), tmp_path) as node:
        yield node


@pytest.fixture(scope="module")
def hut(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """It runs and has no peers."""
    return Node(lab.host("hut"), tmp_path_factory.mktemp("hut")).start()


def fails(node: Node, *words: str, code: int, **variables: str) -> str:
    """`zeqnode WORDS` ends with that code and one sentence, which is given."""
    said = node.command(*words, **variables)
    assert said.returncode == code, said
    assert "Traceback" not in said.stderr
    sentences = [line for line in said.stderr.splitlines() if line.startswith("zeqnode: ")]
    assert len(sentences) == 1, said.stderr
    return sentences[0]


# ---------------------------------------------------------------------- a start that cannot be


def test_a_second_run_on_the_same_state(home: Node) -> None:
    sentence = fails(home, "run", code=5)
    assert f"(process {home.process.pid})" in sentence
    assert "stop it first" in sentence
    assert home.status()["interface"]["name"] == "zeq0"
    assert "zeq0" in home.host.run(["ip", "link"]).stdout


def test_the_port_is_taken(home: Node, tmp_path: Path) -> None:
    second = Node(home.host, tmp_path, {"interface": {"name": "zeq1"}})
    assert "UDP port 51777 is taken" in fails(second, "run", code=1)
    assert "zeq1" not in home.host.run(["ip", "link"]).stdout


def test_the_interface_name_is_taken(home: Node, tmp_path: Path) -> None:
    second = Node(home.host, tmp_path, {"listen": {"port": 0}})
    assert "choose another name in [interface]" in fails(second, "run", code=1)
    assert "zeq0" in home.host.run(["ip", "link"]).stdout


def test_without_cap_net_admin(lab: Lab, tmp_path: Path) -> None:
    node = Node(
        lab.host("cafe"), tmp_path, command=["setpriv", "--bounding-set", "-net_admin", "--", *COMMAND]
    )
    assert "needs CAP_NET_ADMIN" in fails(node, "run", code=1)


def test_without_the_tun_device(lab: Lab, tmp_path: Path) -> None:
    hide = 'mount -t tmpfs tmpfs /dev/net && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", hide, "sh", *COMMAND]
    node = Node(lab.host("cafe"), tmp_path, command=command)
    assert "modprobe tun" in fails(node, "run", code=1)


def test_the_vault_has_another_key(lab: Lab, tmp_path: Path) -> None:
    node = Node(lab.host("cafe"), tmp_path)
    assert node.command("init", ZEQ_FIELD_KEY=KEY).returncode == 0
    before = {path: path.read_bytes() for path in node.state.iterdir()}
    assert "not the one of this vault" in fails(node, "run", code=1, ZEQ_FIELD_KEY=OTHER_KEY)
    assert "set ZEQ_FIELD_KEY" in fails(node, "run", code=1)
    assert "set ZEQ_FIELD_KEY" in fails(node, "run", code=1, ZEQ_PASSPHRASE=KEY)
    assert "64 hex digits" in fails(node, "run", code=2, ZEQ_FIELD_KEY=KEY[1:])
    after = {path: path.read_bytes() for path in node.state.iterdir() if path.name != "lock"}
    assert after == {path: content for path, content in before.items() if path.name != "lock"}


# ---------------------------------------------------------------------- invitations


def pending(node: Node) -> int:
    """Joins that the node would try again."""
    with closing(sqlite3.connect(f"file:{node.state}/node.db?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM pending_joins").fetchone()[0])


def turned_away(node: Node, invitation: str, *, code: int) -> str:
    """`zeqnode join` fails, and leaves no peer and no join to be tried again; gives its sentence."""
    sentence = fails(node, "join", invitation, code=code)
    assert node.peers() == []
    assert pending(node) == 0
    return sentence


def test_an_invitation_that_is_none_or_was_changed(home: Node, hut: Node) -> None:
    good = home.call("invite")["invitation"]
    assert "not an invitation" in turned_away(hut, "https://example.org", code=2)
    changed = ["B" if good[place] == "A" else "A" for place in (10, 100, -10)]
    for place, letter in zip((10, 100, len(good) - 10), changed, strict=True):
        assert "copy all of it" in turned_away(hut, good[:place] + letter + good[place + 1 :], code=2)
    assert "copy all of it" in turned_away(hut, good[:-20], code=2)


def test_its_own_invitation(home: Node) -> None:
    assert "this machine's own" in turned_away(home, home.call("invite")["invitation"], code=2)


def test_an_expired_invitation(home: Node, hut: Node) -> None:
    given = home.call("invite", expires_s=1)

    def state() -> str:
        rows = home.call("invitations")["invitations"]
        return str(next(row["state"] for row in rows if row["id"] == given["id"]))

    eventually(lambda: state() == "expired", 5, "it has expired")
    assert "ask for a new one" in turned_away(hut, given["invitation"], code=5)


def test_a_revoked_invitation(home: Node, hut: Node) -> None:
    given = home.call("invite")
    home.call("revoke", id=given["id"])
    assert "was revoked" in turned_away(hut, given["invitation"], code=5)
    assert home.peers() == []


def test_an_invitation_that_was_used(home: Node, hut: Node, cafe: Node) -> None:
    used = join(home, cafe)
    assert "was used already" in turned_away(hut, used, code=5)
    assert home.peers() == ["cafe"]
    assert cafe.command("join", used).returncode == 0  # to the machine that used it, it stays good
    home.call("forget", peer="cafe")


def test_an_invitation_that_somebody_signed_for_another_machine(home: Node, hut: Node) -> None:
    """The machine_id and the addresses are home's, the key that signed is not: home's bundle tells."""
    forger = MachineKeys.generate(os.urandom)
    theirs = replace(parse(home.call("invite")["invitation"], 0), ed25519=forger.bundle.ed25519)
    forged = encode(theirs, lambda label, payload: sign(forger, label, payload))
    assert "not the one that this invitation names" in turned_away(hut, forged, code=2)


def test_a_bad_invitation_from_a_peer_costs_no_tunnel(home: Node, cafe: Node) -> None:
    join(home, cafe)
    given = home.call("invite")
    home.call("revoke", id=given["id"])
    assert "revoked" in fails(cafe, "join", given["invitation"], code=5)
    assert cafe.peers() == ["home"]
    inside = cafe.address(6, of="home")
    for _ in range(5):
        assert reaches(cafe.host, inside)
    assert cafe.said().count("turned away") == 1
    assert cafe.peer("home")["state"] == "connected"
    home.call("forget", peer="cafe")


def test_two_that_join_each_other_at_once(cafe: Node, shed: Node) -> None:
    nodes = (cafe, shed)
    texts = [node.call("invite")["invitation"] for node in reversed(nodes)]
    answers: dict[Node, str] = {}

    def join_by(node: Node, text: str) -> None:
        answers[node] = node.call("join", invitation=text)["name"]

    joins = [threading.Thread(target=join_by, args=each) for each in zip(nodes, texts, strict=True)]
    for each in joins:
        each.start()
    for each in joins:
        each.join()
    assert list(map(answers.get, nodes)) == ["shed", "cafe"]
    for node, peer in zip(nodes, ("shed", "cafe"), strict=True):
        assert node.peers() == [peer]
        assert pending(node) == 0
        assert reaches(node.host, node.address(4, of=peer))


# ---------------------------------------------------------------------- a full disk


def on(disk: SmallDisk, host: Host, folder: Path) -> Node:
    """A node whose state is on that disk."""
    state, seen = disk.path / "state", disk.seen / "state"
    return Node(host, folder, state=state, seen=seen, command=disk.command)


def test_a_full_disk_at_the_first_start(lab: Lab, tmp_path: Path) -> None:
    with SmallDisk("2m") as disk:
        node = on(disk, lab.host("cafe"), tmp_path)
        disk.fill()
        assert "no space is left" in fails(node, "run", code=1)
        disk.free()
        node.start()
        node.stop()


def fill(disk: SmallDisk, node: Node) -> None:
    """Until the node cannot write any more: SQLite's log may have had some room of its own."""

    def refused() -> bool:
        try:
            node.call("invite")
        except UserError as error:
            return "no space is left" in str(error)
        return False

    disk.fill()
    eventually(refused, 10, "the node finds no space")


@pytest.fixture
def tight(home: Node, lab: Lab, tmp_path: Path) -> Iterator[tuple[Node, SmallDisk]]:
    """cafe, running on a disk that can be filled."""
    with SmallDisk("2m") as disk, on(disk, lab.host("cafe"), tmp_path) as cafe:
        yield cafe, disk
    for peer in home.peers():
        home.call("forget", peer=peer)


def test_a_full_disk_refuses_invitations_and_joins(home: Node, tight: tuple[Node, SmallDisk]) -> None:
    cafe, disk = tight
    invitation = home.call("invite")["invitation"]
    fill(disk, cafe)
    before = cafe.call("invitations")
    assert "no space is left" in fails(cafe, "invite", code=1)
    assert "no space is left" in fails(cafe, "join", invitation, code=1)
    assert cafe.call("invitations") == before
    assert cafe.peers() == home.peers() == []
    disk.free()
    assert cafe.command("join", invitation).returncode == 0
    assert home.peers() == ["cafe"]
    assert cafe.call("invite")["state"] == "open"


def test_whoever_invited_has_a_full_disk(hut: Node, tight: tuple[Node, SmallDisk]) -> None:
    """The joiner asks again until it is let in, or keeps the invitation; the inviter lives on."""
    cafe, disk = tight
    invitation = cafe.call("invite")["invitation"]
    fill(disk, cafe)
    begun, answers = threading.Event(), list[dict[str, object]]()

    def progress(line: str) -> None:
        if "redeeming" in line:
            begun.set()

    joining = threading.Thread(
        target=lambda: answers.append(hut.call("join", invitation=invitation, on_progress=progress))
    )
    joining.start()
    assert begun.wait(10)
    eventually(lambda: "no space is left" in cafe.said(), 5, "cafe noticed that it cannot let hut in")
    assert cafe.peers() == []
    disk.free()
    joining.join()
    assert answers[0]["name"] == "cafe"
    assert cafe.peers() == ["hut"]
    hut.call("forget", peer="cafe")


def test_a_full_disk_does_not_stop_a_node_that_runs(tight: tuple[Node, SmallDisk], shed: Node) -> None:
    """New sessions and new addresses of peers are noted on disk; when that fails, traffic goes on."""
    cafe, disk = tight
    join(shed, cafe)
    fill(disk, cafe)
    inside = cafe.address(6, of="shed")
    shed.stop()
    shed.start()
    eventually(lambda: reaches(cafe.host, inside, wait=0.5), 5, "traffic flows")
    shed.host.set_address("air", "10.80.0.77")
    eventually(lambda: cafe.peer("shed")["endpoint"] == "10.80.0.77:51777", 5, "cafe knows where shed is")
    assert "no space is left" in cafe.said()
    assert "no space is left" in str(refusal(lambda: cafe.call("down", peer="shed")))
    assert cafe.peer("shed")["state"] == "connected"
    cafe.kill()
    disk.free()
    cafe.start()
    assert cafe.peers() == ["shed"]
    assert cafe.call("down", peer="shed")["state"] == "down"


# ---------------------------------------------------------------------- who may ask


def test_a_stranger_may_not_control_the_node(home: Node) -> None:
    """Even where the files' modes would let them: the kernel says who is there."""
    command = as_nobody()
    with tempfile.TemporaryDirectory() as folder:
        own: Sections = {"listen": {"port": 0}, "interface": {"name": "zeq1"}}
        node = Node(home.host, Path(folder), own)
        path = node.state / "control.sock"
        stranger = Node(home.host, Path(folder), own, command=command)
        Path(folder).chmod(0o755)
        with node:
            assert "may not control the node" in fails(stranger, "status", code=5)
            node.state.chmod(0o755)
            path.chmod(0o666)
            assert "may not control the node" in fails(stranger, "status", code=5)
            assert node.command("status").returncode == 0
