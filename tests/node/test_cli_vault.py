"""The vault's commands as a person or a script meets them, with the node running and stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from crypto.zid import parse_zid
from node import control, identity_store, render_vault
from node.errors import Usage
from node.lock import state_lock
from node.vault import entries
from node.vault.errors import NotPermitted
from node.vault.operations import VaultOperations, new_key
from node.vault.secrets import Secrets, open_secrets
from tests.node.test_cli import environment

ADA, BOB = (entries.machine(bytes([number]) * 32) for number in range(2))
PROGRAM = (
    "from node import cli; cli.COMMANDS.setdefault('vault', ('vault:vault', 'The vault.')); "
    "raise SystemExit(cli.main())"
)
NEW = "1e" * 32

Ask = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    identity_store.create(tmp_path / "state", None)
    return tmp_path / "state"


@asynccontextmanager
async def running(state: Path, env: dict[str, str] | None = None) -> AsyncIterator[Secrets]:
    """A node of which there is only the vault."""
    with state_lock(state):
        async with open_secrets(state, env or {}) as secrets, trio.open_nursery() as nursery:
            vault = VaultOperations(secrets, {bytes(32): "ada"}.get)

            async def handle(op: str, arguments: dict[str, Any], asker: control.Asker) -> dict[str, Any]:
                return await vault.operations[op](arguments, asker)

            path = state / control.SOCKET_NAME
            await nursery.start(lambda task_status: control.serve(path, handle, task_status=task_status))
            yield secrets
            nursery.cancel_scope.cancel()


async def zeqnode(state: Path, *words: str, **env: str) -> tuple[int, str, str]:
    done = await trio.run_process(
        [sys.executable, "-c", PROGRAM, "vault", *words, "--state", str(state)],
        capture_stdout=True,
        capture_stderr=True,
        env=environment(state, **env),
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_secrets_are_listed_and_none_is_shown(state: Path) -> None:
    async with running(state) as secrets:
        await secrets.put("vpn.tunnel.1.key", b"hidden", permissions=[ADA, BOB], by=secrets.owner)
        await secrets.put("soon", b"hidden", expires_zeqond=3_000_000_000, by=ADA)
        code, out, err = await zeqnode(state, "list")
        assert (code, err) == (0, "")
        assert "hidden" not in out
        assert out.splitlines()[0] == f"Owner  {secrets.owner}"
        rows = {line.split()[0]: line for line in out.splitlines()[3:]}
        assert "owner" in rows["vpn.tunnel.1.key"]
        assert "ada, ZEQ07" in rows["vpn.tunnel.1.key"]
        assert rows["vpn.tunnel.1.key"].endswith("never")
        assert "2043-11" in rows["soon"]
        assert "this machine" in rows["owner.zid.seed"]
        answer = json.loads((await zeqnode(state, "list", "--json"))[1])
        assert parse_zid(answer["owner"])
        assert answer["machine"] == secrets.machine
        assert bytes.fromhex(answer["claim"]) == await secrets.claim()
        found = {each["purpose"]: each for each in answer["secrets"]}
        assert found["vpn.tunnel.1.key"]["permissions"] == [ADA, BOB]
        assert (found["soon"]["expires_zeqond"], found["soon"]["expires"]) == (3_000_000_000, 2_331_000_000)
        assert found["soon"]["size"] == 6


async def test_the_audit_shows_who_was_denied(state: Path) -> None:
    async with running(state) as secrets:
        await secrets.put("a", b"one", by=secrets.owner)
        with pytest.raises(NotPermitted):
            await secrets.get("a", by=ADA)
        code, out, _ = await zeqnode(state, "audit", "--last", "2")
        assert code == 0
        assert [line.split()[0] for line in out.splitlines()] == ["NUMBER", "4", "5"]
        assert "get: denied" in out
        assert out.splitlines()[-1].endswith("ada")
        answer = json.loads((await zeqnode(state, "audit", "--json"))[1])["entries"]
        assert [(each["number"], each["what"], each["outcome"]) for each in answer] == [
            (1, "create", "done"),
            (2, "put", "done"),
            (3, "get", "done"),
            (4, "put", "done"),
            (5, "get", "denied"),
        ]
        code, out, err = await zeqnode(state, "audit", "--last", "0")
        assert (code, out, "from 1 to" in err) == (2, "", True)
        code, out, _ = await zeqnode(state, "verify")
        assert (code, out) == (0, "2 secrets open, and 5 entries of the audit hold.\n")
        answer = json.loads((await zeqnode(state, "verify", "--json"))[1])
        assert answer == {"secrets": 2, "entries": 5, "first": 1}


@pytest.mark.parametrize("runs", [True, False])
async def test_the_key_is_changed_on_a_running_and_on_a_stopped_node(state: Path, runs: bool) -> None:
    keys = identity_store.load(state, {})
    async with running(state) as secrets:
        await secrets.put("a", b"one", by=secrets.owner)
        if runs:
            code, out, err = await zeqnode(state, "rotate", ZEQ_NEW_FIELD_KEY=NEW)
    if not runs:
        code, out, err = await zeqnode(state, "rotate", ZEQ_NEW_FIELD_KEY=NEW)
    assert (code, err) == (0, "sealing everything with a new key …\n")
    assert "ZEQ_FIELD_KEY" in out
    env = {"ZEQ_FIELD_KEY": NEW}
    assert identity_store.load(state, env).machine_id == keys.machine_id
    async with running(state, env) as secrets:
        assert await secrets.get("a", by=secrets.owner) == b"one"
    code, _, err = await zeqnode(state, "rotate", "--json", **env)
    assert (code, "ZEQ_NEW_PASSPHRASE" in err) == (2, True)


async def test_a_key_file_is_replaced_by_a_new_one(state: Path) -> None:
    before = (state / "vault.key").read_bytes()
    code, out, _ = await zeqnode(state, "rotate", "--json")
    assert (code, json.loads(out)) == (0, {"kind": "key_file"})
    assert (state / "vault.key").read_bytes() != before
    identity_store.load(state, {})


async def test_what_cannot_be_says_what_to_do(state: Path) -> None:
    code, out, err = await zeqnode(state, "list")
    assert (code, out, "zeqnode run" in err) == (3, "", True)
    code, out, err = await zeqnode(state, "rotate", ZEQ_NEW_FIELD_KEY="short")
    assert (code, "ZEQ_NEW_FIELD_KEY must be 64 hex digits" in err) == (2, True)
    code, out, err = await zeqnode(state, "rotate", ZEQ_NEW_FIELD_KEY=NEW, ZEQ_NEW_PASSPHRASE="x")
    assert (code, "one new key" in err) == (2, True)
    with state_lock(state):
        code, out, err = await zeqnode(state, "rotate", ZEQ_NEW_FIELD_KEY=NEW)
    assert (code, "another zeqnode" in err) == (5, True)
    identity_store.load(state, {})


@pytest.mark.parametrize(
    "arguments", [{"field_key": 5}, {"passphrase": ["x"]}, {"field_key": "", "passphrase": ""}]
)
def test_a_request_for_a_key_that_cannot_be(arguments: dict[str, Any]) -> None:
    with pytest.raises(Usage):
        new_key(arguments)


def test_a_verified_vault_in_words() -> None:
    said = render_vault.verified({"secrets": 1, "entries": 1, "first": 7})
    assert said == "1 secret opens, and 1 entry of the audit holds, from number 7 on."
