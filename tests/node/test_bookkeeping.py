"""The ledger as a person or a script meets it: over a real control socket, and as text."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from crypto.identity import fingerprint, slug
from dht.signatures import Ed25519Signatures
from node import cli, control, render_ledger
from node.bookkeeping import OFF, Bookkeeping
from node.books import Books, open_books
from node.control import Asker
from node.errors import Usage
from node.ledger import Ledger
from node.settlement import blocks, vouchers
from node.settlement.blocks import Partner, Party
from node.settlement.terms import GB, MILLIONTHS, Unit, agree
from node.settlement.vouchers import Tunnel
from tests.dht.record_kit import machine, signer

SIGNATURES = Ed25519Signatures()
TERMS = agree(Unit.GB, 50, 1000)
ME, CAFE, DEN = 1, 2, 3
Run = Callable[..., Awaitable[tuple[int, str, str]]]


class Limits:
    """We let each owe 50 ZEQ; cafe said that it lets us owe 37 more; den said nothing."""

    def extended(self, machine_id: bytes) -> int:
        return 50 * MILLIONTHS

    async def left_at(self, machine_id: bytes) -> int | None:
        return 37 * MILLIONTHS if machine_id == machine(CAFE).machine_id else None


def party(number: int) -> Party:
    return Party(machine_id=machine(number).machine_id, signer=signer(number))


def key(number: int) -> bytes:
    return machine(number).bundle.ed25519


def a_voucher(payer: int, payee: int, carried: int, number: int) -> bytes:
    tunnel = Tunnel(
        session=bytes(32),
        tunnel_id=number.to_bytes(16, "big"),
        payer=machine(payer).machine_id,
        payee=machine(payee).machine_id,
        payer_key=key(payer),
        terms=TERMS,
    )
    return vouchers.write(tunnel, 1, carried, 0, 1, signer(payer))


def keep_some(ledger: Ledger) -> None:
    """Cafe carried 0.25 GB for us, and a tunnel of 0.01 GB runs; we carried 0.1 GB for den, which is open."""
    ledger.heard(key(CAFE))
    ledger.heard(key(DEN))
    paid = a_voucher(ME, CAFE, GB // 4, 1)
    ledger.keep([paid, a_voucher(ME, CAFE, GB // 100, 2), a_voucher(DEN, ME, GB // 10, 3)])
    ledger.learn(blocks.accept(party(CAFE), None, ledger.spend(paid, key(CAFE), 7), 8))
    ledger.spend(a_voucher(ME, DEN, 1, 4), key(DEN), 9)


@asynccontextmanager
async def a_node(state: Path, prepare: Callable[[Ledger], None] = keep_some) -> AsyncIterator[Books]:
    """Its control socket, with the operations of this piece."""
    names = {machine(CAFE).machine_id: "cafe"}
    async with open_books(state / "ledger.db", party(ME), SIGNATURES) as books:
        await books.call(prepare)
        operations = Bookkeeping(books, machine(ME).bundle, Limits(), names.get).operations

        async def handle(op: str, arguments: dict[str, Any], asker: Asker) -> dict[str, Any]:
            return await operations[op](arguments, asker)

        async with trio.open_nursery() as nursery:
            await nursery.start(partial(control.serve, state / control.SOCKET_NAME, handle))
            yield books
            nursery.cancel_scope.cancel()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Awaits (exit code, output, errors) of one command."""
    monkeypatch.setitem(cli.COMMANDS, "ledger", ("ledger:ledger", "Show this machine's ledger."))
    monkeypatch.setitem(cli.COMMANDS, "balance", ("ledger:balance", "Show who owes whom how much."))

    async def call(*words: str) -> tuple[int, str, str]:
        arguments: Sequence[str] = [*words, "--state", str(tmp_path)]
        code = await trio.to_thread.run_sync(cli.main, arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return call


async def test_the_ledger_is_a_table_with_its_sums(run: Run, tmp_path: Path) -> None:
    async with a_node(tmp_path):
        code, out, err = await run("ledger")
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0] == f"{slug(machine(ME).machine_id)}: 2 blocks, 1 with the partner's half, 1 without"
        assert [line.split() for line in lines if line.startswith("cafe")] == [["cafe", "0", "12.5", "-12.5"]]
        newest, before = lines[-2:]
        assert newest.split()[0] == "2"
        assert slug(machine(DEN).machine_id) in newest
        assert "not here" in newest
        assert before.split()[-4:] == ["cafe", "-12.5", "here", "00000000"]
        answer = json.loads((await run("ledger", "--last", "1", "--json"))[1])
        assert [block["number"] for block in answer["chain"]] == [2]
        assert (answer["blocks"], answer["pairs"], answer["open"], answer["missing"]) == (2, 1, 1, 0)
        assert answer["partners"][0]["spent_millionths"] == 12_500_000
        assert (await run("ledger", "--last", "-1"))[0] == 2


async def test_an_empty_ledger_says_when_it_begins(run: Run, tmp_path: Path) -> None:
    async with a_node(tmp_path, lambda _ledger: None):
        assert "it begins when" in (await run("ledger"))[1]
        assert (await run("balance"))[1] == "Nobody owes anybody anything.\n"
        assert "0 blocks" in (await run("ledger", "verify"))[1]


async def test_who_is_behind_or_has_forked_is_told(run: Run, tmp_path: Path) -> None:
    def prepare(ledger: Ledger) -> None:
        to = Partner(machine_id=machine(CAFE).machine_id, key=key(CAFE))
        chain = [blocks.propose(party(ME), None, to, bytes(16), bytes(32), amount, 7) for amount in (1, 2)]
        later = blocks.propose(party(ME), chain[0], to, bytes(16), bytes(32), 3, 7)
        third = blocks.propose(party(ME), later, to, bytes(16), bytes(32), 3, 7)
        for block in (chain[0], third, chain[1]):
            ledger.learn(block)

    async with a_node(tmp_path, prepare):
        out = (await run("ledger"))[1]
        for line in ("missing  1 block", "behind   a partner holds more", "begin with a new identity"):
            assert line in out


async def test_verify_says_what_holds_and_what_does_not(run: Run, tmp_path: Path) -> None:
    async with a_node(tmp_path) as books:
        code, out, _ = await run("ledger", "verify")
        assert (code, f"The ledger of {slug(machine(ME).machine_id)} holds: 2 blocks" in out) == (0, True)
        assert "spent        12.5 ZEQ" in out
        found = json.loads((await run("ledger", "verify", "--json"))[1])
        assert found["fingerprint"] == fingerprint(machine(ME).machine_id)

        def damage(ledger: Ledger) -> None:
            with ledger._db.transaction():
                ledger._db.execute("UPDATE partners SET spent = '1'")

        await books.call(damage)
        code, out, err = await run("ledger", "verify")
        assert (code, out, "put back a backup" in err) == (1, "", True)


async def test_an_exported_ledger_is_verified_without_a_node(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "home.jsonl"
    async with a_node(tmp_path):
        code, out, err = await run("ledger", "export", str(file))
        assert (code, err, "2 blocks are in" in out) == (0, "", True)
        code, out, err = await run("ledger", "export", str(file))
        assert (code, out, "already" in err) == (1, "", True)
    code, out, err = await run("ledger", "verify", "--file", str(file))
    assert (code, err, "holds: 2 blocks, 1 with the partner's half" in out) == (0, "", True)
    written = file.read_bytes()
    for wrong in (
        written[:-30],
        written.replace(b'"delta_millionths":-12500000', b'"delta_millionths":-12500001'),
    ):
        file.write_bytes(wrong)
        code, out, err = await run("ledger", "verify", "--file", str(file))
        assert (code, out, "no ledger that holds" in err) == (1, "", True)
    assert (await run("ledger", "verify", "--file", str(tmp_path / "none")))[0] == 1


async def test_an_export_without_a_node_leaves_no_file(run: Run, tmp_path: Path) -> None:
    code, out, _ = await run("ledger", "export", str(tmp_path / "home.jsonl"))
    assert (code, out) == (3, "")
    assert not (tmp_path / "home.jsonl").exists()


async def test_the_balance_is_said_in_words(run: Run, tmp_path: Path) -> None:
    async with a_node(tmp_path):
        code, out, err = await run("balance")
        assert (code, err) == (0, "")
        assert out.splitlines() == [
            "you owe cafe 13 ZEQ for 260 MB; you can still use 37 ZEQ there, some 740 MB at what it has cost "
            "so far.",
            f"{slug(machine(DEN).machine_id)} owes you 5 ZEQ for 100 MB; you can still use 5 ZEQ there.",
            "",
            "In all, you are owed 5 ZEQ and owe 13 ZEQ.",
        ]
        answer = json.loads((await run("balance", "--json"))[1])
        assert (answer["owed_to_you_millionths"], answer["you_owe_millionths"]) == (5_000_000, 13_000_000)
        cafe = answer["partners"][0]
        assert (cafe["name"], cafe["net_millionths"], cafe["bytes_for_you"]) == (
            "cafe",
            -13_000_000,
            260_000_000,
        )
        assert (cafe["extended_millionths"], cafe["spendable_millionths"]) == (50_000_000, 37_000_000)


@pytest.mark.parametrize(
    ("net", "stated", "said"),
    [
        (0, None, "you and cafe are even; it has not said how much it lets you owe."),
        (-5, None, "you owe cafe 0.000005 ZEQ; it has not said how much it lets you owe."),
        (
            -5,
            5,
            "you owe cafe 0.000005 ZEQ; you can use nothing more there before it has used something of "
            "yours.",
        ),
        (7, 5, "cafe owes you 0.000007 ZEQ; you can still use 0.000012 ZEQ there."),
    ],
)
def test_what_somebody_owes_is_a_sentence(net: int, stated: int | None, said: str) -> None:
    row = {
        "name": "cafe",
        "net_millionths": net,
        "spent_millionths": 0,
        "bytes_for_you": 0,
        "bytes_for_it": 0,
        "stated_millionths": stated,
        "spendable_millionths": max(0, net + (stated or 0)),
    }
    answer = {"partners": [row], "owed_to_you_millionths": max(0, net), "you_owe_millionths": max(0, -net)}
    assert render_ledger.balance(answer)[0] == said


@pytest.mark.parametrize("op", OFF)
async def test_without_a_ledger_every_operation_says_so(op: str) -> None:
    with pytest.raises(Usage, match="the ledger is off"):
        await OFF[op]({}, None)  # type: ignore[arg-type]


@given(st.integers(-(2**80), 2**80))
def test_amounts_are_written_exactly(millionths: int) -> None:
    text = render_ledger.zeq(millionths)
    whole, _, rest = text.replace(",", "").lstrip("-").partition(".")
    assert int(whole) * MILLIONTHS + int(rest.ljust(6, "0") or "0") == abs(millionths)
    assert text.startswith("-") == (millionths < 0)
    assert not rest.endswith("0")
