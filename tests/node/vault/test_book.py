from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.errors import DiskFull, StateDamaged
from node.vault import book as module
from node.vault import entries, tables
from node.vault.book import Book, SecretInfo, Verified
from node.vault.errors import BadPurpose, Expired, NoSuchSecret, NotPermitted, VaultFull

ME, ADA, BOB = (entries.machine(bytes([number]) * 32) for number in range(3))
KEY = "vpn.tunnel.1.key"


def master(generation: int) -> bytes:
    return bytes([generation]) * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vault.db"


@pytest.fixture
def book(path: Path) -> Iterator[Book]:
    opened = Book.open(path, master, 1, 0, ME)
    yield opened
    opened.close()


def reopened(path: Path) -> Book:
    return Book.open(path, master, 1, 0, ME)


def told(book: Book) -> list[tuple[str, str, str, str]]:
    return [(entry.what.value, entry.outcome.value, entry.purpose, entry.by) for entry in book.audit(99)]


def test_a_secret_is_put_had_and_removed(book: Book) -> None:
    book.put(KEY, b"old", (), None, ME, 5)
    book.put(KEY, b"new", (ADA, ADA), 90, ME, 6)
    assert book.infos() == [SecretInfo(KEY, ME, (ADA,), 6, 90, 3)]
    assert book.get(KEY, ME, 7) == book.get(KEY, ADA, 7) == b"new"
    book.remove(KEY, ME, 8)
    assert book.infos() == []
    with pytest.raises(NoSuchSecret, match="zeqnode vault list"):
        book.get(KEY, ME, 9)
    book.remove(KEY, ME, 9)
    assert told(book) == [
        ("create", "done", "", ME),
        ("put", "done", KEY, ME),
        ("put", "done", KEY, ME),
        ("get", "done", KEY, ME),
        ("get", "done", KEY, ADA),
        ("remove", "done", KEY, ME),
        ("get", "missing", KEY, ME),
        ("remove", "missing", KEY, ME),
    ]
    assert [(entry.number, entry.zeqond) for entry in book.audit(2)] == [(7, 9), (8, 9)]


def test_others_are_denied_and_the_audit_says_so(book: Book) -> None:
    book.put(KEY, b"secret", (ADA,), None, ME, 5)
    for denied in (
        lambda: book.get(KEY, BOB, 6),
        lambda: book.put(KEY, b"mine", (), None, ADA, 6),
        lambda: book.remove(KEY, ADA, 6),
    ):
        with pytest.raises(NotPermitted, match="not for you") as refused:
            denied()
        assert (refused.value.exit_code, refused.value.status) == (5, 403)
    assert told(book)[2:] == [
        ("get", "denied", KEY, BOB),
        ("put", "denied", KEY, ADA),
        ("remove", "denied", KEY, ADA),
    ]
    assert book.get(KEY, ME, 7) == b"secret"


def test_what_is_over_is_erased_when_it_is_asked_for(book: Book) -> None:
    book.put(KEY, b"secret", (), 10, ME, 5)
    assert book.get(KEY, ME, 9) == b"secret"
    with pytest.raises(NotPermitted):
        book.get(KEY, ADA, 10)
    with pytest.raises(Expired, match="over") as over:
        book.get(KEY, ME, 10)
    assert over.value.status == 404
    assert not book.has(KEY)
    assert told(book)[-1] == ("expire", "done", KEY, ME)


def test_what_is_over_is_erased_with_the_next_put(book: Book) -> None:
    book.put("a", b"secret", (), 10, ME, 5)
    book.put("b", b"secret", (), 20, ADA, 5)
    book.put("a", b"secret", (), None, BOB, 10)
    assert [info.purpose for info in book.infos()] == ["a", "b"]
    assert told(book)[-2:] == [("expire", "done", "a", ME), ("put", "done", "a", BOB)]
    book.put("c", b"secret", (), None, ME, 20)
    assert [info.purpose for info in book.infos()] == ["a", "c"]


def test_limits(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadPurpose):
        book.get("", ME, 0)
    with pytest.raises(ValueError, match="ZID"):
        book.get(KEY, "root", 0)
    with pytest.raises(ValueError, match="4,096 bytes"):
        book.put(KEY, bytes(4097), (), None, ME, 0)
    with pytest.raises(ValueError, match="16 who"):
        book.put(KEY, b"", [entries.machine(bytes([n]) * 32) for n in range(17)], None, ME, 0)
    for expires in (-1, module.EXPIRES_MAX + 1, 2**63):
        with pytest.raises(ValueError, match="expire"):
            book.put(KEY, b"", (), expires, ME, 0)
    monkeypatch.setattr(module, "SECRETS_MAX", 2)
    book.put("a", b"", (), 5, ME, 0)
    book.put("b", b"", (), None, ME, 0)
    book.put("b", b"again", (), None, ME, 0)
    with pytest.raises(VaultFull, match="end some tunnels"):
        book.put("c", b"", (), None, ME, 4)
    book.put("c", b"", (), None, ME, 5)


def test_it_is_there_after_opening_again_and_no_secret_lies_open(path: Path) -> None:
    book = reopened(path)
    book.put(KEY, b"a very secret text", (ADA,), None, ME, 5)
    for file in path.parent.iterdir():
        assert b"a very secret text" not in file.read_bytes()
        assert file.stat().st_mode & 0o777 == 0o600
    book.close()
    book = reopened(path)
    assert book.get(KEY, ADA, 6) == b"a very secret text"
    assert book.verify() == Verified(1, 3, 1)
    book.close()


def test_the_audit_is_bounded_and_goes_on_from_its_floor(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "AUDIT_MAX", 20)
    monkeypatch.setattr(tables, "AUDIT_DROPPED", 5)
    book = reopened(path)
    book.put(KEY, b"secret", (), None, ME, 0)
    for now in range(100):
        book.get(KEY, ME, now)
        assert len(book.audit(99)) <= 20
    found = book.audit(99)
    assert [entry.number for entry in found] == list(range(found[0].number, 103))
    assert book.verify() == Verified(1, len(found), found[0].number)
    book.close()
    book = reopened(path)
    assert book.verify().first == found[0].number
    book.close()


def test_all_is_sealed_with_another_master_key(path: Path) -> None:
    book = reopened(path)
    book.put("a", b"one", (ADA,), 50, ME, 5)
    book.put("b", b"two", (), None, ADA, 5)
    before, audit = book.infos(), book.audit(99)
    book.rekey(2, ME, 7)
    assert book.generation == 2
    assert (book.infos(), book.audit(99)[:-1]) == (before, audit)
    assert told(book)[-1] == ("rotate", "done", "", ME)
    book.close()
    with pytest.raises(StateDamaged):
        Book.open(path, lambda _generation: master(1), 1, 0, ME)
    book = Book.open(path, lambda generation: {2: master(2)}[generation], 1, 0, ME)
    assert (book.get("a", ADA, 8), book.get("b", ADA, 8)) == (b"one", b"two")
    assert book.verify() == Verified(2, 6, 1)
    book.close()


def test_what_is_over_is_erased_with_the_next_start(path: Path) -> None:
    book = reopened(path)
    book.put("a", b"secret", (), 10, ME, 5)
    book.put("b", b"secret", (), 11, ME, 5)
    book.close()
    book = Book.open(path, master, 1, 10, ME)
    assert [info.purpose for info in book.infos()] == ["b"]
    assert told(book)[-1] == ("expire", "done", "a", ME)
    book.close()


# ---------------------------------------------------------------------------- tampering


def changed(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


OF_B = "(SELECT {0} FROM secrets WHERE purpose = 'b') WHERE purpose = 'a'"
TAMPERING: dict[str, tuple[str, ...]] = {
    "secret left out": ("DELETE FROM secrets WHERE purpose = 'b'",),
    "all of them left out": ("DELETE FROM secrets",),
    "box of another": (f"UPDATE secrets SET box = {OF_B.format('box')}",),
    "box and what is beside it of another": (
        f"UPDATE secrets SET (about, box) = {OF_B.format('about, box')}",
    ),
    "other permissions": (
        f"UPDATE secrets SET about = {OF_B.format('about')}",
    ),
    "garbage beside it": ("UPDATE secrets SET about = x'00' WHERE purpose = 'a'",),
    "another name": ("UPDATE secrets SET purpose = 'z' WHERE purpose = 'a'",),
    "newest entry left out": ("DELETE FROM audit WHERE number = 5",),
    "newest entry left out, and the head says so": (
        "DELETE FROM audit WHERE number = 5", "UPDATE head SET number = 4"),
    "no audit": ("DELETE FROM audit",),
    "no head": ("DELETE FROM head",),
    "no head and no audit": ("DELETE FROM head", "DELETE FROM audit"),
    "an absurd head": ("UPDATE head SET floor = -9223372036854775808",),
    "a floor that was moved": ("UPDATE head SET floor = 1", "DELETE FROM audit WHERE number = 1"),
}  # fmt: skip
TAMPERED_AUDIT = {
    "entry in the middle left out": "DELETE FROM audit WHERE number = 3",
    "first entry left out": "DELETE FROM audit WHERE number = 1",
    "entry changed": "UPDATE audit SET raw = (SELECT raw FROM audit WHERE number = 2) WHERE number = 3",
    "entry of garbage": "UPDATE audit SET raw = x'ff' WHERE number = 3",
    "link changed": "UPDATE audit SET link = zeroblob(32) WHERE number = 3",
}


@pytest.fixture
def written(path: Path) -> Path:
    book = reopened(path)
    book.put("a", b"one", (ADA,), None, ME, 5)
    book.put("b", b"two", (BOB,), None, ME, 5)
    book.get("a", ADA, 6)
    book.get("b", BOB, 6)
    assert book.verify() == Verified(2, 5, 1)
    book.close()
    return path


@pytest.mark.parametrize("statements", TAMPERING.values(), ids=TAMPERING)
def test_a_file_that_was_tampered_with_does_not_open(written: Path, statements: tuple[str, ...]) -> None:
    for statement in statements:
        changed(written, statement)
    with pytest.raises(StateDamaged, match=r"vault\.db is damaged .*; put back a backup"):
        reopened(written)


@pytest.mark.parametrize("statement", TAMPERED_AUDIT.values(), ids=TAMPERED_AUDIT)
def test_an_audit_that_was_tampered_with_is_told(written: Path, statement: str) -> None:
    changed(written, statement)
    book = reopened(written)
    for look in (book.verify, lambda: book.audit(99), lambda: book.rekey(2, ME, 7)):
        with pytest.raises(StateDamaged, match="audit"):
            look()
    assert book.generation == 1
    assert book.get("a", ADA, 8) == b"one"
    book.close()


def test_a_row_that_is_put_back_under_an_open_vault_is_noticed(written: Path, tmp_path: Path) -> None:
    shutil.copy(written, tmp_path / "old")
    book = reopened(written)
    book.put("a", b"newer", (), None, ME, 7)
    with sqlite3.connect(tmp_path / "old") as old:
        box = old.execute("SELECT about, box FROM secrets WHERE purpose = 'a'").fetchone()
    old.close()
    changed(written, "UPDATE secrets SET about = ?, box = ? WHERE purpose = 'a'", *box)
    with pytest.raises(StateDamaged, match="the secret a is not what it wrote"):
        book.get("a", ME, 8)
    book.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda book: book.put("c", b"three", (), None, ME, 7),
        lambda book: book.get("a", ADA, 7),
        lambda book: book.remove("a", ME, 7),
        lambda book: book.rekey(2, ME, 7),
    ],
)  # fmt: skip
def test_what_the_disk_did_not_take_is_not_so(
    written: Path, use: Callable[[Book], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    book = reopened(written)
    before = book.infos()

    def full(*_: object) -> None:
        raise DiskFull("no space")

    with monkeypatch.context() as patch:
        patch.setattr(tables.Tables, "_write_head", full)
        with pytest.raises(DiskFull):
            use(book)
    assert (book.infos(), book.generation) == (before, 1)
    assert book.verify() == Verified(2, 5, 1)
    use(book)
    book.close()
