"""Kills writers of a state directory with SIGKILL and looks at what they left; run by test_crash.py.

    python crash_driver.py rounds DIRECTORY SEED COUNT     killed at random moments
    python crash_driver.py points DIRECTORY                killed at each step of a creation in turn

A program of its own, because it forks: one interpreter start serves all rounds, and it has a single thread.
Prints one JSON object of counts; an AssertionError, with its traceback, if anything acknowledged is lost.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from node import identity_store
from node.files import make_private_directory
from node.lock import state_lock
from node.store import InvitationRow, PeerRow, Redeemed, Store

ROUNDS_PER_STATE = 5
CALLS = ("open", "write", "fsync", "close", "link", "replace", "unlink", "mkdir")

Ack = list[Any]


@dataclass
class Acknowledged:
    """What the writers of one state directory have said is done, and so must be there."""

    identity: str | None = None
    peers: dict[str, int] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    invited: set[str] = field(default_factory=set)
    redeemed: dict[str, str] = field(default_factory=dict)
    sealed: set[str] = field(default_factory=set)
    pending: set[str] = field(default_factory=set)

    def note(self, what: str, key: str, value: Any) -> None:
        match what:
            case "identity":
                assert self.identity in (None, key)
                self.identity = key
            case "peer" | "clock":
                self.peers[key] = value
            case "remove":
                del self.peers[key]
                self.removed.add(key)
            case "invite":
                self.invited.add(key)
            case "redeem":
                self.redeemed[key] = value
            case "seal":
                self.sealed.add(key)
            case "pending":
                self.pending.add(key)
            case _:
                raise AssertionError(what)


def name_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def secret_of(name: str) -> bytes:
    return name.encode() * 50


def write_for_ever(state: Path, base: int, ack: Callable[[str, str, Any], None]) -> None:
    """Create or load the identity, then write and acknowledge, each key once, until killed."""
    make_private_directory(state)
    with state_lock(state):
        create = not identity_store.exists(state)
        keys = identity_store.create(state, None) if create else identity_store.load(state, {})
        ack("identity", keys.machine_id.hex(), None)
        vault = identity_store.open_vault(state, {})
        with closing(Store.open(state / "node.db")) as store:
            for number in count(base):
                machine, text = name_of(number), name_of(number).hex()
                store.put_peer(PeerRow(machine, bytes(1248), "p", None, ("a:1",), (), None, True, 0, number))
                ack("peer", text, 0)
                store.set_clock(machine, number)
                ack("clock", text, number)
                store.add_invitation(InvitationRow(machine, "i", 0, 2))
                ack("invite", text, None)
                assert store.redeem(machine, machine, 1).outcome is Redeemed.DONE
                ack("redeem", text, text)
                vault.put(f"secret {number}", secret_of(f"secret {number}"))
                identity_store.save_vault(state, vault)
                ack("seal", f"secret {number}", None)
                store.add_pending(f"zeq://{number}", 0)
                ack("pending", f"zeq://{number}", None)
                if (number - base) % 3 == 2:
                    store.remove_peer(name_of(number - 1))
                    ack("remove", name_of(number - 1).hex(), None)


def check(state: Path, said: Acknowledged) -> bool:
    """Open everything and compare; whether there is an identity. At most one thing is there unsaid."""
    if not identity_store.exists(state):
        assert said == Acknowledged()
        return False
    with state_lock(state):
        keys = identity_store.load(state, {})
        assert said.identity in (None, keys.machine_id.hex())
        said.identity = keys.machine_id.hex()
        assert identity_store.load_public(state) == keys.bundle
        assert not list(state.glob("*.zeq-new")) + list(state.glob(".*.zeq-new"))
        vault = identity_store.open_vault(state, {})
        assert said.sealed <= set(vault.names())
        assert all(vault.get(name) == secret_of(name) for name in said.sealed)
        with closing(Store.open(state / "node.db")) as store:
            unsaid = len(vault.names()) - 1 - len(said.sealed) + check_store(store, said)
    assert unsaid <= 1, "a writer does one thing at a time"
    said.sealed = set(vault.names()) - {"machine.keys"}
    return True


def check_store(store: Store, said: Acknowledged) -> int:
    """Compare and take over what is there; the number of things that nobody had acknowledged."""
    peers = {peer.machine_id.hex(): peer.last_clock for peer in store.peers()}
    invitations = store.list_invitations()
    invited = {row.token_hash.hex() for row in invitations}
    redeemed = {row.token_hash.hex(): row.used_by.hex() for row in invitations if row.used_by}
    pending = {row.invitation for row in store.pending()}
    gone = said.peers.keys() - peers.keys()
    moved = {key for key in said.peers.keys() & peers.keys() if said.peers[key] != peers[key]}
    assert all(said.peers[key] == 0 and peers[key] == int(key, 16) for key in moved)
    assert not said.removed & peers.keys()
    assert said.invited <= invited
    assert said.redeemed.items() <= redeemed.items()
    assert said.pending <= pending
    unsaid = len(gone) + len(moved) + len(peers.keys() - said.peers.keys()) + len(pending - said.pending)
    unsaid += len(invited - said.invited) + len(redeemed.keys() - said.redeemed.keys())
    said.peers, said.invited, said.redeemed, said.pending = peers, invited, redeemed, pending
    said.removed |= gone
    return unsaid


def killed_writer(state: Path, base: int, acks: int, spin: float) -> list[Ack]:
    """Fork a writer, kill it `spin` seconds after its ack number `acks`; all acks that it got out."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            write_for_ever(state, base, lambda *ack: send(writing, ack))
        finally:
            os._exit(1)  # only SIGKILL ends a writer; any exception in it is a failure
    os.close(writing)
    with open(reading, "rb") as pipe:
        lines = [pipe.readline() for _ in range(acks)]
        end = time.perf_counter() + spin
        while time.perf_counter() < end:
            pass
        os.kill(pid, signal.SIGKILL)
        lines += pipe.readlines()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    return [json.loads(line) for line in lines]


def send(pipe: int, ack: tuple[str, str, Any]) -> None:
    """One write of less than PIPE_BUF: whole in the pipe or not at all, and there also after a kill."""
    os.write(pipe, json.dumps(ack).encode() + b"\n")


def run_rounds(directory: Path, seed: int, rounds: int) -> dict[str, int]:
    rng = random.Random(seed)
    counts = {"rounds": 0, "acks": 0, "without_identity": 0}
    said = Acknowledged()
    for number in range(rounds):
        if number % ROUNDS_PER_STATE == 0:
            said = Acknowledged()
        state = directory / str(number // ROUNDS_PER_STATE)
        # The first round of a directory is killed in its creation, mostly; the others among their writes.
        acks, spin = (0, 0.03) if number % ROUNDS_PER_STATE == 0 else (rng.randrange(20), 0.004)
        got = killed_writer(state, 1000 * number, acks, rng.uniform(0, spin))
        for ack in got:
            said.note(*ack)
        counts["without_identity"] += not check(state, said)
        counts["rounds"] += 1
        counts["acks"] += len(got)
    return counts


def run_points(directory: Path) -> dict[str, int]:
    """Creation, killed before its first call on a file, before its second, … until it comes through."""
    counts = {"points": 0, "without_identity": 0}
    for point in count():
        state = directory / str(point)
        pid = os.fork()
        if pid == 0:
            die_before_call(point)
            try:
                identity_store.create(state, None)
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, -signal.SIGKILL)
        whole = identity_store.exists(state)
        keys = identity_store.load(state, {}) if whole else identity_store.create(state, None)
        assert identity_store.load(state, {}).to_bytes() == keys.to_bytes()
        assert sorted(path.name for path in state.iterdir()) == [
            "identity.pub",
            "identity.vault",
            "vault.key",
        ]
        if status == 0:
            assert whole
            return counts
        counts["points"] += 1
        counts["without_identity"] += not whole
    raise AssertionError


def die_before_call(point: int) -> None:
    """Kill this process when the functions of `os` in CALLS have been called `point` times in all."""
    left: Iterator[int] = iter(range(point, -1, -1))

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counted

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))


def main(mode: str, directory: str, *numbers: str) -> None:
    run = run_rounds if mode == "rounds" else run_points
    print(json.dumps(run(Path(directory), *map(int, numbers))))


if __name__ == "__main__":
    main(*sys.argv[1:])
