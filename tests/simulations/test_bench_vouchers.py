"""The voucher bench keeps what it says that it keeps, and tells in JSON and in words."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from dht.signatures import Ed25519Signatures
from node.errors import Usage
from simulations.bench import vouchers as bench


def test_it_measures_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.bench(seconds=0, batch=3, folder=tmp_path, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["batch"] == 3
    assert found["ratio"] > 0
    assert found["kept_per_second"] > 10
    assert set(found["microseconds"]) == {"signature", "reading", "disk"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("ratio", "word"), [(0.61, "as wanted"), (0.59, "less than wanted")])
def test_it_says_whether_that_is_enough(ratio: float, word: str) -> None:
    out = StringIO()
    bench.show(bench.Result(64, 9_000, 9_000 * ratio, ratio, 110, 4, 20), Console(file=out, width=100))
    assert f"Kept over bare: {ratio} ({word}: 0.6)" in out.getvalue()
    assert "verified and on the disk" in out.getvalue()


def test_a_relays_checks_are_the_real_ones() -> None:
    """What is timed as kept is a voucher that a relay would take, and the next one follows it."""
    payers = bench._Payers(2)
    first = payers.check(payers.sign(1), [None, None], Ed25519Signatures())
    second = payers.check(payers.sign(2), first, Ed25519Signatures())
    assert [voucher.sequence for voucher in second] == [2, 2]
    payers.verify(payers.sign(3))


def test_it_goes_on_for_as_long_as_one_likes() -> None:
    """A round a voucher: also after more rounds than a tunnel has zeqonds."""
    payers = bench._Payers(1)
    before = payers.check(payers.sign(1_000), [None], Ed25519Signatures())
    assert payers.check(payers.sign(1_001), before, Ed25519Signatures())[0].sequence == 1_001


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="there is no such folder; name one"):
        bench.bench(seconds=0, batch=1, folder=tmp_path / "nowhere")
