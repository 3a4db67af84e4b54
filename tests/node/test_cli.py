"""The command line as a person or a script meets it: another process, a terminal, a pipe, a stand-in node."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from crypto.identity import MachineKeys, fingerprint, sign, slug, ula
from node import control
from node.cli import COMMANDS
from node.commands.common import Where
from node.control import Progress
from node.errors import Refused, Unreachable, Usage
from node.identity_store import create, load
from node.invitation import Invitation, encode
from node.store import Store

ROOT = Path(__file__).parents[2]
INVITER = MachineKeys.from_bytes(bytes(range(128)))
PLUGINS = ("bench", "demo", "lab", "sim")

CAFE = {
    "name": "cafe",
    "slug": "ZEQ07000000001",
    "fingerprint": "abcd-" * 12 + "abcd",
    "state": "connected",
    "address6": "fd5a:6571:1:2:3:4:5:6",
    "address4": "198.18.0.2",
    "networks": ["192.168.7.0/24"],
    "endpoint": "203.0.113.7:51777",
    "path": "direct",
    "since_s": 7500,
    "last_heard_s": 3,
    "last_handshake_s": 60,
    "rtt_ms": 12.34,
    "sent_bytes": 3_400_000,
    "received_bytes": 1234,
    "epoch": 7,
    "initiator": True,
    "payload": 1200,
    "behind_nat": False,
    "why": None,
}
DEN = CAFE | {
    "name": "den",
    "state": "unreached",
    "endpoint": "[2001:db8::7]:51777",
    "path": None,
    "since_s": None,
    "last_heard_s": None,
    "rtt_ms": None,
    "sent_bytes": 0,
    "received_bytes": 0,
    "epoch": None,
    "payload": None,
    "behind_nat": None,
    "why": "nothing answers at [2001:db8::7]:51777; is that machine on, and its UDP port open?",
}
STATUS = {
    "machine": {
        "name": "home",
        "slug": "ZEQ07000000009",
        "fingerprint": "wxyz-" * 12 + "wxyz",
        "address6": "fd5a:6571::9",
        "address4": "198.18.0.1",
        "version": "0.1.0",
        "uptime_s": 125,
    },
    "interface": {"name": "zeq0", "mtu": 1404, "addresses": ["fd5a:6571::9", "198.18.0.1"]},
    "listen": {"port": 51777, "addresses": ["192.0.2.10:51777"]},
    "peers": [CAFE, DEN],
    "invitations_open": 1,
    "counters": {"mac1": 17, "replay": 2},
}


class StandIn:
    """Answers as the node does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.unreachable_pings = 0

    async def __call__(self, op: str, arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
        self.asked.append((op, arguments))
        peer = arguments.get("peer")
        if peer not in (None, "cafe"):
            raise Usage(f"no peer is called {peer}; known: cafe, den")
        match op:
            case "status":
                return STATUS
            case "invite":
                made = invitation()
                return {"invitation": made, "id": "3f9a2c41", "name": "x", "expires": 1_800_000_000}
            case "invitations":
                row = {"id": "3f9a2c41", "name": "cafe", "created": 1_790_000_000, "expires": 1_800_000_000}
                rows = [row | {"state": "used", "used_by": "cafe"}, row | {"state": "open", "used_by": None}]
                return {"invitations": rows * 500}
            case "join":
                await progress("calling home")
                addresses = [CAFE["address6"], CAFE["address4"]]
                names = {"name": "home", "slug": CAFE["slug"], "fingerprint": CAFE["fingerprint"]}
                return names | {"addresses": addresses}
            case "ping":
                if self.unreachable_pings:
                    self.unreachable_pings -= 1
                    raise Unreachable("no answer from cafe within 5 s: it is switched off there")
                way = {"path": "direct", "endpoint": CAFE["endpoint"]}
                return {"name": "cafe", "rtt_ms": 10.0 + len(self.asked), **way}
            case "revoke":
                if arguments["id"] != "3f9a2c41":
                    raise Refused("no open invitation has this ID; see: zeqnode invite list")
                return {"id": arguments["id"], "state": "revoked"}
            case "rename":
                return {"name": arguments["name"], "was": "cafe"}
        return CAFE


@pytest.fixture
def node() -> StandIn:
    return StandIn()


@asynccontextmanager
async def running(node: StandIn, state: Path) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        path = state / control.SOCKET_NAME
        await nursery.start(lambda task_status: control.serve(path, node, task_status=task_status))
        yield
        nursery.cancel_scope.cancel()


def environment(state: Path, **more: str) -> dict[str, str]:
    """Nothing of this machine's own configuration, keys or terminal."""
    foreign = (
        "ZEQ",
        "XDG",
        "STATE_DIRECTORY",
        "JOURNAL_STREAM",
        "NO_COLOR",
        "FORCE_COLOR",
        "COLUMNS",
        "TERM",
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return {**kept, "PYTHONPATH": str(ROOT), "HOME": str(state), "TERM": "xterm", **more}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "node", *words]


def zeqnode(state: Path, *words: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Without a node; --state is added."""
    return subprocess.run(
        command(*words, "--state", str(state)),
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(state, **env),
        cwd=state,
        timeout=60,
        check=False,
    )


@pytest.fixture
def ask(node: StandIn, tmp_path: Path) -> Callable[..., Any]:
    """With the stand-in running: awaits (exit code, output, errors) of one command."""

    async def call(*words: str, stdin: str = "") -> tuple[int, str, str]:
        async with running(node, tmp_path):
            done = await trio.run_process(
                command(*words, "--state", str(tmp_path)),
                stdin=stdin.encode(),
                capture_stdout=True,
                capture_stderr=True,
                env=environment(tmp_path),
                check=False,
            )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return call


def invitation(expires: int = 4_000_000_000, keys: MachineKeys = INVITER) -> str:
    fields = Invitation(
        keys.machine_id, keys.bundle.ed25519, "home", ("192.0.2.1:51777",), (), b"l" * 16, b"t" * 16, expires
    )
    return encode(fields, lambda label, payload: sign(keys, label, payload))


# ---------------------------------------------------------------------------- help


def plain(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        capture_output=True,
        text=True,
        env=environment(Path("/nonexistent"), **env),
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        *([word] for word in COMMANDS),
        *(["invite", "list"], ["invite", "revoke"], ["config", "check"], ["relay", "offer"]),
        *(["relay", "withdraw"], ["tags", "tail"], ["tags", "publish"]),
        *(["tunnels", "accept"], ["tunnels", "refuse"], ["token", "new"], ["token", "list"]),
        *(["token", "revoke"], ["vault", "list"], ["vault", "audit"], ["vault", "verify"]),
        *(["vault", "rotate"], ["ledger", "verify"], ["ledger", "export"]),
    ],
)
def test_every_command_explains_itself(words: list[str]) -> None:
    page = plain(*words, "--help")
    assert (page.returncode, page.stderr) == (0, "")
    assert f"zeqnode {' '.join(words)}" in page.stdout.partition("xample")[2], "no example of itself"
    assert "Exit codes: 0 done" in page.stdout
    assert max(map(len, page.stdout.splitlines())) <= 80
    if words not in (["config"], ["tags"], ["token"], ["vault"]):
        assert "--state" in page.stdout
        assert "--config" in page.stdout


def test_the_overview_says_of_each_command_what_its_own_page_begins_with() -> None:
    overview = " ".join(plain("--help", COLUMNS="200").stdout.replace("│", " ").split())
    for word, (place, line) in COMMANDS.items():
        assert f"{word} {line}" in overview
        assert line in plain(word, "--help", COLUMNS="200").stdout, place
    for word in PLUGINS:
        assert f" {word} " in overview


def test_no_word_at_all_shows_the_overview() -> None:
    assert plain().stdout == plain("--help").stdout


def test_the_overview_loads_nothing_that_it_does_not_need() -> None:
    script = (
        "import sys; from node.cli import main; main(['--help'])\n"
        "heavy = {'trio', 'cryptography', 'pyroute2', 'segno', 'msgpack', 'simulations', 'sqlite3'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(ROOT), check=True
    )
    assert done.stderr == "[]\n"


def test_version_is_the_packages() -> None:
    assert plain("--version").stdout.strip().count(".") == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["frobnicate"], "there is no command frobnicate; zeqnode --help lists them all"),
        (["pong"], "there is no command pong; did you mean ping?"),
        (["--state", "/x", "status"], "options come after the command, as in: zeqnode status --state"),
        (["ping"], 'command "ping" parameter PEER requires an argument. See: zeqnode ping --help'),
        (["ping", "a", "b"], "more words than zeqnode ping takes: b. See: zeqnode ping --help"),
        (
            ["ping", "a", "--cuont", "3"],
            "unknown option: --cuont. Did you mean --count? See: zeqnode ping --help",
        ),
        (["config", "chekc"], 'unknown command "chekc". Did you mean "check"?'),
        (
            ["init", "--passphrase", "--key-file", "--state", "/nonexistent"],
            "give --passphrase or --key-file",
        ),
        (["invite", "--expires", "soon"], "--expires is a number and m, h, d or w"),
        (["config", "check", "/nonexistent.toml"], "there is no configuration file /nonexistent.toml"),
        (["status", "--config", "/nonexistent.toml"], "there is no configuration file /nonexistent.toml"),
    ],
)
def test_what_cannot_be_meant_ends_with_2_and_one_sentence(words: list[str], sentence: str) -> None:
    done = plain(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"zeqnode: {sentence}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("option", "value"), [("--count", "0"), ("--count", "x"), ("--interval", "-1")])
def test_numbers_out_of_range_are_usage(option: str, value: str) -> None:
    done = plain("ping", "cafe", option, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert option in done.stderr


# ---------------------------------------------------------------------------- without a node


@pytest.mark.parametrize(
    "words",
    [
        *("status", "ping x", "invite", "invite list", "up x", "down x", "rename x y", "forget x --yes"),
        *("peers", "lookup x", "market", "market --watch", "relay", "relay offer --per-gb 50"),
        *("relay withdraw", "tags tail x", "tags publish x y"),
    ],
)
def test_no_node_is_3_and_says_how_to_start_one(words: str, tmp_path: Path) -> None:
    done = zeqnode(tmp_path, *words.split())
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"zeqnode: no node is running on {tmp_path}; start one with: sudo zeqnode run --state {tmp_path}\n"
    )


def test_init_makes_an_identity_and_id_shows_it_without_its_secrets(tmp_path: Path) -> None:
    state = tmp_path / "state"
    made = plain("init", "--json", "--state", str(state))
    keys = load(state, {})
    public = {
        "slug": slug(keys.machine_id),
        "fingerprint": fingerprint(keys.machine_id),
        "address": str(ula(keys.machine_id)),
        "state": str(state),
    }
    assert json.loads(made.stdout) == public | {"protection": "key file"}
    (state / "identity.vault").unlink()  # `id` has no need of it
    assert json.loads(zeqnode(state, "id", "--json").stdout) == public
    shown = zeqnode(state, "id").stdout
    assert all(value in shown for value in public.values())


def test_init_says_what_the_seal_is_worth_and_never_makes_a_second_identity(tmp_path: Path) -> None:
    first = zeqnode(tmp_path, "init")
    assert first.returncode == 0
    assert "who has the whole disk" in first.stdout
    assert "sudo zeqnode run" in first.stdout
    before = load(tmp_path, {}).machine_id
    again = zeqnode(tmp_path, "init")
    assert again.returncode == 1
    assert "holds an identity already" in again.stderr
    assert load(tmp_path, {}).machine_id == before


@pytest.mark.parametrize(
    ("words", "stdin", "env", "word"),
    [
        (["--passphrase"], "correct horse battery\n", {}, "passphrase"),
        ([], "", {"ZEQ_PASSPHRASE": "correct horse battery"}, "passphrase"),
        ([], "", {"ZEQ_FIELD_KEY": "ab" * 32}, "field key"),
        (["--key-file"], "", {"ZEQ_FIELD_KEY": "ab" * 32}, "key file"),
    ],
)
def test_init_seals_with_what_was_asked_for(
    words: list[str], stdin: str, env: dict[str, str], word: str, tmp_path: Path
) -> None:
    done = zeqnode(tmp_path, "init", "--json", *words, stdin=stdin, **env)
    assert json.loads(done.stdout)["protection"] == word, done.stderr
    opens: Mapping[str, str] = {
        "passphrase": {"ZEQ_PASSPHRASE": "correct horse battery"},
        "field key": {"ZEQ_FIELD_KEY": "ab" * 32},
        "key file": {},
    }[word]
    load(tmp_path, opens)
    assert (tmp_path / "vault.key").exists() == (word == "key file")


@pytest.mark.parametrize(
    ("words", "env", "sentence"),
    [
        (["--passphrase"], {}, "the passphrase is empty"),
        ([], {"ZEQ_FIELD_KEY": "xyz"}, "ZEQ_FIELD_KEY must be 64 hex digits"),
    ],
)
def test_init_with_a_bad_key_makes_nothing(
    words: list[str], env: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    done = zeqnode(tmp_path, "init", *words, **env)
    assert (done.returncode, done.stderr.startswith(f"zeqnode: {sentence}")) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_id_without_an_identity_says_how_to_make_one(tmp_path: Path) -> None:
    done = zeqnode(tmp_path, "id")
    assert done.returncode == 1
    assert "zeqnode init" in done.stderr


def test_config_check_prints_what_holds(tmp_path: Path) -> None:
    file = tmp_path / "zeqnode.toml"
    file.write_text('[listen]\nport = 4000\n[peers.cafe]\nallowed_ips = ["192.168.7.0/24"]\n')
    shown = zeqnode(tmp_path, "config", "check", str(file)).stdout
    assert shown.startswith(f"ok: {file}\n")
    assert "listen.port = 4000\n" in shown
    assert 'peers.cafe.allowed_ips = ["192.168.7.0/24"]\n' in shown
    found = json.loads(zeqnode(tmp_path, "config", "check", "--json", "--config", str(file)).stdout)
    assert (found["ok"], found["file"], found["listen"]["port"]) == (True, str(file), 4000)
    assert found["node"]["state"] == str(tmp_path), "--state counts before the file"


def test_config_check_names_the_place(tmp_path: Path) -> None:
    file = tmp_path / "zeqnode.toml"
    file.write_text("[listen]\n\nprot = 4000\n")
    done = zeqnode(tmp_path, "config", "check", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"zeqnode: {file}, line 3: there is no key prot in [listen]; did you mean port?\n"


def test_the_configuration_names_the_state(tmp_path: Path) -> None:
    file = tmp_path / "zeqnode.toml"
    file.write_text(f'[node]\nstate = "{tmp_path}/elsewhere"\n')
    for done in (plain("status", "--config", str(file)), plain("status", ZEQNODE_CONFIG=str(file))):
        assert done.returncode == 3
        assert f"no node is running on {tmp_path}/elsewhere;" in done.stderr


def test_an_ordinary_user_means_their_own_node_or_else_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, system = tmp_path / "zeqnode", tmp_path / "system"
    monkeypatch.setattr("node.config.default_state", lambda: own)
    monkeypatch.setattr("node.config.SYSTEM_STATE", system)
    where = Where(config=tmp_path / "empty.toml")
    (tmp_path / "empty.toml").write_text(f'[node]\nstate = "{own}"\n')
    assert where.socket() == own / "control.sock"
    for state in (system, own):
        state.mkdir()
        (state / "control.sock").touch()
        assert where.socket() == state / "control.sock"
    assert Where(state=Path("here")).socket() == Path("here/control.sock").absolute()


# ---------------------------------------------------------------------------- join


def test_join_without_a_node_keeps_the_invitation(tmp_path: Path) -> None:
    create(tmp_path, None)
    text = invitation()
    done = zeqnode(tmp_path, "join", "-", stdin=f"\n {text}\n")
    assert done.returncode == 0, done.stderr
    assert "used at the next start" in done.stdout
    assert json.loads(zeqnode(tmp_path, "join", text, "--json").stdout) == {"pending": True, "name": "home"}
    store = Store.open(tmp_path / "node.db")
    assert [row.invitation for row in store.pending()] == [text]
    store.close()


def test_join_without_an_identity_asks_for_one(tmp_path: Path) -> None:
    done = zeqnode(tmp_path, "join", invitation())
    assert done.returncode == 2
    assert "make one with: zeqnode init" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_join_refuses_this_machines_own_invitation(tmp_path: Path) -> None:
    keys = create(tmp_path, None)
    done = zeqnode(tmp_path, "join", invitation(keys=keys))
    assert done.returncode == 2
    assert "this machine's own" in done.stderr


def tampered() -> str:
    text = invitation()
    return text[:60] + ("A" if text[60] != "A" else "B") + text[61:]


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ("hello", 2, "this is not an invitation: one begins with zeq://"),
        ("", 2, "this is not an invitation"),
        ("zeq://", 2, "this invitation is cut short or changed"),
        (invitation()[:-9], 2, "this invitation is cut short or changed"),
        (tampered(), 2, "this invitation is cut short or changed"),
        (invitation(expires=1_700_000_000), 5, "this invitation was good until 2023-11-14 22:13 UTC"),
    ],
    ids=["other text", "nothing", "scheme only", "cut", "tampered", "expired"],
)
async def test_a_wrong_invitation_is_told_apart_and_changes_nothing(
    text: str, code: int, sentence: str, node: StandIn, tmp_path: Path, ask: Callable[..., Any]
) -> None:
    without = await trio.to_thread.run_sync(lambda: zeqnode(tmp_path, "join", "-", stdin=text))
    assert (without.returncode, without.stderr.startswith(f"zeqnode: {sentence}")) == (code, True)
    assert os.listdir(tmp_path) == []
    assert (await ask("join", text))[0] == code
    assert not node.asked


async def test_join_with_a_node_shows_its_progress(node: StandIn, ask: Callable[..., Any]) -> None:
    code, out, err = await ask("join", invitation())
    assert (code, err) == (0, "calling home …\n")
    assert out.startswith("Joined home (ZEQ07000000001), inside: fd5a:")
    assert out.endswith("Next: zeqnode ping home\n")
    assert node.asked == [("join", {"invitation": invitation()})]


# ---------------------------------------------------------------------------- with a node


@pytest.mark.parametrize(
    ("words", "op", "arguments"),
    [
        (["status"], "status", {}),
        (["invite", "cafe", "--expires", "36h"], "invite", {"name": "cafe", "expires_s": 129_600}),
        (["invite"], "invite", {"name": "", "expires_s": 604_800}),
        (["invite", "list"], "invitations", {}),
        (["invite", "revoke", "3f9a2c41"], "revoke", {"id": "3f9a2c41"}),
        (["up", "cafe"], "up", {"peer": "cafe"}),
        (["down", "cafe"], "down", {"peer": "cafe"}),
        (["forget", "cafe", "--yes"], "forget", {"peer": "cafe"}),
        (["rename", "cafe", "bar"], "rename", {"peer": "cafe", "name": "bar"}),
        (["ping", "cafe", "--count", "1"], "ping", {"peer": "cafe", "timeout_s": 5.0}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_what_is_asked_and_that_its_json_parses(
    words: list[str], op: str, arguments: dict[str, Any], node: StandIn, ask: Callable[..., Any]
) -> None:
    code, out, err = await ask(*words)
    assert (code, node.asked) == (0, [(op, arguments)]), err
    assert out.strip()
    code, out, err = await ask(*words, "--json")
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out), dict)


async def test_an_unknown_peer_is_named_and_the_known_ones_too(ask: Callable[..., Any]) -> None:
    for words in (["up", "caffe"], ["ping", "caffe"], ["ping", "caffe", "--json"], ["rename", "caffe", "x"]):
        code, out, err = await ask(*words)
        assert (code, out, err) == (2, "", "zeqnode: no peer is called caffe; known: cafe, den\n")


async def test_a_refusal_is_5(ask: Callable[..., Any]) -> None:
    code, _, err = await ask("invite", "revoke", "nonsense")
    assert (code, err) == (5, "zeqnode: no open invitation has this ID; see: zeqnode invite list\n")


async def test_a_new_name_is_checked_before_the_node_is_asked(node: StandIn, ask: Callable[..., Any]) -> None:
    code, _, err = await ask("rename", "cafe", "Café!")
    assert (code, node.asked) == (2, [])
    assert err == 'zeqnode: the name must be 1 to 32 of a to z, 0 to 9 and inner hyphens, not "Café!"\n'


async def test_an_invitation_in_a_pipe_is_the_link_alone(ask: Callable[..., Any]) -> None:
    code, out, err = await ask("invite", "cafe")
    assert (code, out) == (0, invitation() + "\n")
    assert "a secret until it is used" in err
    assert "zeqnode invite revoke 3f9a2c41" in err


async def test_forget_asks_a_person_and_nobody_else(node: StandIn, ask: Callable[..., Any]) -> None:
    code, _, err = await ask("forget", "cafe", stdin="y\n")
    assert (code, node.asked) == (2, [])
    assert "say --yes" in err


async def test_status_without_a_terminal_has_no_colours_and_whole_lines(ask: Callable[..., Any]) -> None:
    code, out, err = await ask("status", "-v")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    for value in (CAFE["address6"], CAFE["address4"], CAFE["endpoint"], DEN["why"], "2 h 5 min", "12.3 ms"):
        assert str(value) in out
    assert "mac1" in out


async def test_watched_json_is_one_answer_a_line(node: StandIn, tmp_path: Path) -> None:
    async with running(node, tmp_path), trio.open_nursery() as nursery:
        words = command("status", "--watch", "--json", "--state", str(tmp_path))
        process = await trio.lowlevel.open_process(words, stdout=subprocess.PIPE, env=environment(tmp_path))
        nursery.start_soon(process.wait)
        assert process.stdout
        seen = b""
        while seen.count(b"\n") < 2:
            seen += await process.stdout.receive_some()
        process.send_signal(signal.SIGINT)
        assert [json.loads(line) for line in seen.splitlines()[:2]] == [STATUS, STATUS]
        assert await process.wait() == 130


async def test_ping_sums_up(ask: Callable[..., Any]) -> None:
    code, out, err = await ask("ping", "cafe", "-c", "3", "-i", "0.01")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "from cafe: seq=1 time=11.0 ms path=direct 203.0.113.7:51777",
        "from cafe: seq=2 time=12.0 ms path=direct 203.0.113.7:51777",
        "from cafe: seq=3 time=13.0 ms path=direct 203.0.113.7:51777",
        "3 sent, 3 back, 0% lost; min/avg/max 11.0/12.0/13.0 ms",
    ]


async def test_ping_that_half_comes_back_is_no_failure(node: StandIn, ask: Callable[..., Any]) -> None:
    node.unreachable_pings = 1
    code, out, _ = await ask("ping", "cafe", "-c", "2", "-i", "0.01", "--json")
    found = json.loads(out)
    assert (code, found["sent"], found["received"], found["loss"]) == (0, 2, 1, 0.5)
    assert found["replies"][0] == {
        "seq": 1,
        "error": "no answer from cafe within 5 s: it is switched off there",
    }


@pytest.mark.parametrize("more", [[], ["--json"]])
async def test_ping_without_any_answer_is_4_and_says_why(
    more: list[str], node: StandIn, ask: Callable[..., Any]
) -> None:
    node.unreachable_pings = 2
    code, out, err = await ask("ping", "cafe", "-c", "2", "-i", "0.01", *more)
    assert (code, err) == (4, "zeqnode: no answer from cafe within 5 s: it is switched off there\n")
    assert ('"received": 0' if more else "2 sent, 0 back, 100% lost") in out


async def test_ctrl_c_ends_ping_quietly_with_its_summary(node: StandIn, tmp_path: Path) -> None:
    async with running(node, tmp_path):
        words = command("ping", "cafe", "--count", "100000", "--interval", "0.01", "--state", str(tmp_path))
        process = await trio.lowlevel.open_process(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(tmp_path)
        )
        assert process.stdout
        assert process.stderr
        out = b""
        while out.count(b"\n") < 2:
            out += await process.stdout.receive_some()
        process.send_signal(signal.SIGINT)
        async for part in process.stdout:
            out += part
        assert await process.stderr.receive_some() == b""
        assert await process.wait() == 130
        await process.stdout.aclose()
        await process.stderr.aclose()
    assert b" sent, " in out.splitlines()[-1]


# ---------------------------------------------------------------------------- output that fails


async def test_a_reader_that_has_gone_is_no_error(node: StandIn, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    async with running(node, tmp_path):
        done = await trio.run_process(
            command("invite", "list", "--state", str(tmp_path)),
            stdout=writer,
            capture_stderr=True,
            env=environment(tmp_path),
            check=False,
        )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_under_the_output_is_a_sentence(tmp_path: Path) -> None:
    for words in (["config", "check"], ["config", "check", "--json"]):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run(
                command(*words), stdout=full, stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
            )
        assert done.returncode == 1
        assert done.stderr == "zeqnode: no space is left for the output; free some and try again\n"


async def test_a_terminal_that_lacks_letters_gets_question_marks(node: StandIn, tmp_path: Path) -> None:
    async with running(node, tmp_path):
        done = await trio.run_process(
            command("status", "--state", str(tmp_path)),
            capture_stdout=True,
            env=environment(tmp_path, PYTHONIOENCODING="ascii"),
        )
    assert b"cafe" in done.stdout
    assert b"?" in done.stdout


# ---------------------------------------------------------------------------- on a terminal


async def terminal(
    state: Path, *words: str, typed: tuple[str, ...] = (), columns: int = 120, **env: str
) -> tuple[int, str]:
    """Exit code and what a terminal of this width shows; each question is answered by one line of `typed`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, columns, 0, 0))
    process = await trio.lowlevel.open_process(
        command(*words, "--state", str(state)),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(state, **env),
        start_new_session=True,
    )
    os.close(theirs)
    shown = await trio.to_thread.run_sync(_converse, ours, list(typed))
    return await process.wait(), shown


def _converse(handle: int, typed: list[str]) -> str:
    shown = b""
    try:
        while part := os.read(handle, 65536):
            shown += part
            if typed and shown.endswith((b"[y/N] ", b"assphrase: ", b"again: ")):
                os.write(handle, f"{typed.pop(0)}\n".encode())
    except OSError:
        pass  # EIO: the other side has closed the terminal
    os.close(handle)
    return shown.decode().replace("\r\n", "\n")


async def test_status_on_a_terminal_is_coloured_unless_the_user_minds(node: StandIn, tmp_path: Path) -> None:
    async with running(node, tmp_path):
        code, coloured = await terminal(tmp_path, "status")
        _, grey = await terminal(tmp_path, "status", NO_COLOR="1")
    assert code == 0
    assert "\x1b[32mconnected" in coloured
    assert "\x1b[32m" not in grey


async def test_an_invitation_on_a_terminal_has_a_qr_code_where_it_fits(node: StandIn, tmp_path: Path) -> None:
    async with running(node, tmp_path):
        _, wide = await terminal(tmp_path, "invite", "cafe", columns=160)
        _, narrow = await terminal(tmp_path, "invite", "cafe", columns=40)
        _, without = await terminal(tmp_path, "invite", "cafe", "--no-qr", columns=160)
    assert "█" in wide
    assert "█" not in narrow + without
    assert "The QR code needs a terminal of" in narrow


async def test_forget_goes_on_after_a_yes_only(node: StandIn, tmp_path: Path) -> None:
    async with running(node, tmp_path):
        code, shown = await terminal(tmp_path, "forget", "cafe", typed=("",))
        assert (code, node.asked, "nothing was changed" in shown) == (1, [], True)
        code, shown = await terminal(tmp_path, "forget", "cafe", typed=("y",))
        assert (code, node.asked, "cafe is forgotten." in shown) == (0, [("forget", {"peer": "cafe"})], True)


async def test_a_passphrase_is_typed_twice_and_not_shown(tmp_path: Path) -> None:
    code, shown = await terminal(tmp_path, "init", "--passphrase", typed=("one two three", "one two four"))
    assert (code, "the two are not the same" in shown, os.listdir(tmp_path)) == (2, True, [])
    code, shown = await terminal(tmp_path, "init", "--passphrase", typed=("one two three", "one two three"))
    assert (code, "one two" in shown) == (0, False)
    load(tmp_path, {"ZEQ_PASSPHRASE": "one two three"})


# ---------------------------------------------------------------------------- plug-ins


@pytest.fixture
def with_plugins(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with a package that brings one good command and three broken ones."""
    info = tmp_path / "extras-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extras\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[zeqnode.commands]\nhello = extras:command\ngone = extras_gone:command\n"
        "broken = extras_broken:command\nodd = extras:text\nstatus = extras:command\n"
    )
    (tmp_path / "extras.py").write_text(
        "from cyclopts import App\ntext = 'no app'\ncommand = App(name='hello')\n"
        "@command.default\ndef main(code: int = 0) -> int:\n    print('hello')\n    return code\n"
    )
    (tmp_path / "extras_broken.py").write_text("raise RuntimeError('out of order')\n")
    return tmp_path


def test_a_plug_in_is_listed_and_runs_and_gives_the_exit_code(with_plugins: Path) -> None:
    path = f"{ROOT}:{with_plugins}"
    overview = plain("--help", PYTHONPATH=path).stdout
    assert "A command of the package extras." in overview
    done = plain("hello", "7", PYTHONPATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (7, "hello\n", "")
    assert plain("hello", "--help", PYTHONPATH=path).returncode == 0


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("gone", "No module named 'extras_gone'"),
        ("broken", "RuntimeError: out of order"),
        ("odd", "no command line"),
    ],
)
def test_a_broken_plug_in_is_a_sentence(word: str, reason: str, with_plugins: Path) -> None:
    done = plain(word, PYTHONPATH=f"{ROOT}:{with_plugins}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"zeqnode: the command {word} of the package extras ")
    assert reason in done.stderr


def test_no_plug_in_takes_a_command_of_ours(with_plugins: Path, tmp_path: Path) -> None:
    done = plain("status", "--state", str(tmp_path), PYTHONPATH=f"{ROOT}:{with_plugins}")
    assert done.returncode == 3


def test_start_up_is_quick() -> None:
    """The best of three, with room for a busy machine."""
    best = min(_seconds("--help") for _ in range(3))
    assert best < 1.5


def _seconds(*words: str) -> float:
    start = time.perf_counter()
    plain(*words)
    return time.perf_counter() - start
