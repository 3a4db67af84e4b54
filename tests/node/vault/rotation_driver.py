"""Kills changes of the vault's key with SIGKILL and looks at what they left; run by test_rotation.py.

    python rotation_driver.py points DIRECTORY                 killed at each step of each kind of change
    python rotation_driver.py creation DIRECTORY               killed at each step of making the vault
    python rotation_driver.py rounds DIRECTORY SEED COUNT      killed at random moments of many changes

A program of its own, because it forks. Prints one JSON object of counts; an AssertionError, with its
traceback, if after a kill there is not exactly one of the two keys that opens everything.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from crypto.vault import key_kind
from crypto.vault_keys import FieldKey, KeyFile, KeySource, Passphrase, kind_of
from node import identity_store
from node.database import Database
from node.identity_store import VaultClosed
from node.vault import entries
from node.vault.book import Verified
from node.vault.keeper import Keeper

CALLS = ("open", "write", "fsync", "close", "link", "replace", "unlink", "ftruncate")
SECRETS = {f"vpn.tunnel.{number}.key": bytes([number]) * 32 for number in range(3)}
ADA = entries.machine(b"a" * 32)
OLD, NEW = FieldKey("0f" * 32), FieldKey("1e" * 32)
PHRASE = Passphrase("correct horse", cost=10)
KINDS: dict[str, tuple[KeySource | None, KeySource | None]] = {
    "field key": (OLD, NEW),
    "key file": (None, None),
    "key file to field key": (None, NEW),
    "field key to passphrase": (OLD, PHRASE),
}


def env_of(source: KeySource | None) -> dict[str, str]:
    match source:
        case FieldKey(hex64):
            return {"ZEQ_FIELD_KEY": hex64}
        case Passphrase(text):
            return {"ZEQ_PASSPHRASE": text}
        case _:
            return {}


def made(state: Path, source: KeySource | None) -> bytes:
    """A state directory with secrets in its vault; machine_id."""
    keys = identity_store.create(state, source)
    keeper = Keeper(state, env_of(source), 0)
    for name, secret in SECRETS.items():
        keeper.book.put(name, secret, (ADA,), None, keeper.machine, 1)
    keeper.close()
    return keys.machine_id


def opens_all(state: Path, source: KeySource | None, machine_id: bytes) -> bool:
    """False where this key opens nothing; if it opens the identity, then all else."""
    if key_kind((state / "identity.vault").read_bytes()) is not kind_of(source or KeyFile(bytes(32))):
        return False
    try:
        keys = identity_store.load(state, env_of(source))
    except VaultClosed:
        return False
    assert keys.machine_id == machine_id
    keeper = Keeper(state, env_of(source), 2)
    assert isinstance(keeper.book.verify(), Verified)
    assert {name: keeper.book.get(name, ADA, 2) for name in SECRETS} == SECRETS
    keeper.close()
    return True


def rotate(state: Path, old: KeySource | None, new: KeySource | None) -> None:
    keeper = Keeper(state, env_of(old), 3)
    keeper.rotate(new, 3)
    keeper.close()


def make(state: Path) -> None:
    Keeper(state, {}, 0).close()


def run_points(directory: Path) -> dict[str, int]:
    counts = {"points": 0, "old": 0, "new": 0}
    for kind, (old, new) in KINDS.items():
        template = directory / kind
        machine_id = made(template, old)
        for point in count():
            state = directory / f"{kind} {point}"
            shutil.copytree(template, state)
            status = killed_at(point, rotate, state, old, new)
            if status == 0:
                assert opens_all(state, new, machine_id)
                assert whole(state, new)
                break
            moved = new != old and opens_all(state, new, machine_id)
            assert moved != opens_all(state, old, machine_id), (kind, point)
            if not moved:
                rotate(state, old, new)
                assert whole(state, new)
            assert opens_all(state, new, machine_id)
            counts["points"] += 1
            counts["new" if moved else "old"] += 1
            shutil.rmtree(state)
    return counts


def run_creation(directory: Path) -> dict[str, int]:
    counts = {"points": 0}
    template = directory / "template"
    machine_id = identity_store.create(template, None).machine_id
    for point in count():
        state = directory / str(point)
        shutil.copytree(template, state)
        status = killed_at(point, make, state)
        keeper = Keeper(state, {}, 1)
        assert keeper.machine == entries.machine(machine_id)
        assert len(keeper.book.infos()) == 1, "the owner's key, once"
        keeper.book.verify()
        keeper.close()
        assert identity_store.load(state, {}).machine_id == machine_id
        assert whole(state, None)
        if status == 0:
            return counts
        counts["points"] += 1
    raise AssertionError


def whole(state: Path, source: KeySource | None) -> bool:
    """Nothing of an interrupted change is left, and there is one master key."""
    names = {path.name for path in state.iterdir()}
    vault = identity_store.open_vault(state, env_of(source))
    masters = [name for name in vault.names() if name.startswith("vault.master.")]
    expected = {"identity.pub", "identity.vault", "vault.db", *({"vault.key"} if source is None else ())}
    assert names == expected, names
    return len(masters) == 1


def run_rounds(directory: Path, seed: int, rounds: int) -> dict[str, int]:
    rng = random.Random(seed)
    counts = {"rounds": rounds, "changes": 0, "moved": 0}
    state, number = directory / "state", 1
    machine_id = made(state, field(0))
    begun = time.perf_counter()
    rotate(state, field(0), field(1))
    one = time.perf_counter() - begun
    for _ in range(rounds):
        said = killed_changer(state, number, rng.uniform(0, 3 * one))
        counts["changes"] += said - number
        moved = opens_all(state, field(said + 1), machine_id)
        assert moved != opens_all(state, field(said), machine_id)
        counts["moved"] += moved
        number = said + moved
    return counts


def field(number: int) -> FieldKey:
    return FieldKey(f"{number:064x}")


def killed_changer(state: Path, number: int, spin: float) -> int:
    """Fork one that changes the key from `number` on, kill it `spin` seconds after it has begun; the number
    of the last key that it acknowledged."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            keeper = Keeper(state, env_of(field(number)), 3)
            os.write(writing, b"\n")
            for later in count(number + 1):
                keeper.rotate(field(later), 3)
                os.write(writing, b"\n")
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.readline() == b"\n"
        end = time.perf_counter() + spin
        while time.perf_counter() < end:
            pass
        os.kill(pid, signal.SIGKILL)
        acknowledged = len(pipe.readlines())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    return number + acknowledged


def killed_at(point: int, work: Callable[..., None], *arguments: object) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            die_before_call(point)
            work(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status


def die_before_call(point: int) -> None:
    """Kill this process when the functions of `os` in CALLS and those of Database have been called `point`
    times in all."""
    left: Iterator[int] = iter(range(point, -1, -1))

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counted

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
    for name in ("rows", "execute"):
        setattr(Database, name, deadly(getattr(Database, name)))


def main(mode: str, directory: str, *numbers: str) -> None:
    os.fsync = lambda fd: None  # a kill is no loss of power, and there are thousands of them
    runs: dict[str, Callable[..., dict[str, int]]] = {
        "points": run_points,
        "creation": run_creation,
        "rounds": run_rounds,
    }
    print(json.dumps(runs[mode](Path(directory), *map(int, numbers))))


if __name__ == "__main__":
    main(*sys.argv[1:])
