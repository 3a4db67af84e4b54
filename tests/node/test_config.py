"""The configuration: what is taken, what is refused and in which words, whatever stands in the file."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from node import config as module
from node.config import Config, Dht, Engine, Interface, Listen, PeerOptions, default_state, host_name
from node.errors import LoosePermissions, StorageFailed, Usage

FILE = Path("/etc/zeqnode/zeqnode.toml")
FINGERPRINT = "abcd-" * 12 + "a2b7"

WHOLE = f"""
[node]
name = "home"
state = "/srv/zeqnode"
log = "debug"
log_format = "json"
[listen]
port = 0
address = "192.0.2.1"
advertise = ["home.example.net:51777", "[2001:db8::1]:51777"]
[interface]
name = "mesh0"
mtu = 1280
addresses = ["10.9.0.1/24"]
serve = ["192.168.7.0/24", "2001:DB8:1::/48"]
ipv4_pool = "100.64.0.0/10"
[mesh]
secret_file = "/etc/zeqnode/mesh.secret"
[dht]
enabled = true
seeds = ["seed.example.net:51777"]
lan = false
public = true
homes = 1
[engine]
queues = 2
mode = "segments"
without = ["udp_gro", "uso"]
rekey_seconds = 5
largest_payload = 1232
[peers.cafe]
allowed_ips = ["192.168.8.0/24", "10.1.2.3"]
keepalive = true
endpoints = ["198.51.100.7:51777"]
[peers.{FINGERPRINT}]
keepalive = true
"""


def parse(text: str) -> Config:
    return Config.parse(text, FILE)


def test_every_key_is_read() -> None:
    config = parse(WHOLE)
    assert (config.node.name, config.node.state) == ("home", Path("/srv/zeqnode"))
    assert (config.node.log, config.node.log_format) == ("debug", "json")
    assert config.listen == Listen(
        0, IPv4Address("192.0.2.1"), ("home.example.net:51777", "[2001:db8::1]:51777")
    )
    assert config.interface == Interface(
        "mesh0",
        1280,
        (IPv4Interface("10.9.0.1/24"),),
        (IPv4Network("192.168.7.0/24"), IPv6Network("2001:db8:1::/48")),
        IPv4Network("100.64.0.0/10"),
    )
    assert config.mesh.secret_file == Path("/etc/zeqnode/mesh.secret")
    assert config.dht == Dht(True, ("seed.example.net:51777",), False, True, 1)
    assert config.engine == Engine(2, "segments", ("uso", "udp_gro"), 5, 1232)
    networks = (IPv4Network("192.168.8.0/24"), IPv4Network("10.1.2.3/32"))
    assert config.peer("cafe", "other") == PeerOptions(networks, True, ("198.51.100.7:51777",))
    assert config.peer("renamed", FINGERPRINT) == PeerOptions(keepalive=True)
    assert config.peer("stranger", "other") == PeerOptions()
    assert config.path == FILE


def test_an_empty_file_and_none_mean_the_defaults() -> None:
    for config in (parse(""), Config(), parse("[node]\n[peers]\n[mesh]\nsecret_file = ''")):
        assert config.listen == Listen(51777, IPv6Address("::"), ())
        assert config.interface == Interface("zeq0", 1404, (), (), IPv4Network("198.18.0.0/16"))
        assert (config.node.name, config.node.state) == (host_name(), default_state())
        assert (config.mesh.secret_file, config.peers) == (None, {})
        assert config.dht == Dht(True, (), True, "auto", 3)
        assert config.engine == Engine("auto", "auto", (), 120, 0)
        assert config.relay.ports == ()


def test_effective_values_are_plain() -> None:
    found = parse(WHOLE).to_dict()
    assert found["interface"]["serve"] == ["192.168.7.0/24", "2001:db8:1::/48"]
    assert found["node"]["state"] == "/srv/zeqnode"
    assert found["peers"]["cafe"]["keepalive"] is True
    assert Config().to_dict()["mesh"] == {"secret_file": None}
    assert found["engine"]["without"] == ["uso", "udp_gro"]
    assert parse("[relay]\nports = [8000, 53]").to_dict()["relay"]["ports"] == [8000, 53]
    assert (found["engine"]["queues"], Config().to_dict()["engine"]["queues"]) == (2, "auto")


@pytest.mark.parametrize(
    ("cores", "queues"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (8, 4), (16, 8), (64, 8)]
)
def test_queues_go_by_the_cores_that_we_may_use(
    cores: int, queues: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    assert parse("").engine.queue_count() == queues
    assert parse("[engine]\nqueues = 16").engine.queue_count() == 16


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[listn]\nport = 1", ", line 1: there is no section [listn]; did you mean listen?"),
        (
            "[zzz]",
            ", line 1: there is no section [zzz]; there are node, listen, interface, mesh, dht, engine, ",
        ),
        ("port = 1", ", line 1: there is no section [port]; there are node,"),
        ("[listen]\n# port\nprot = 1", ", line 3: there is no key prot in [listen]; did you mean port?"),
        ("[mesh]\nx = 1", ", line 2: there is no key x in [mesh]; there are secret_file"),
        ("[peers.cafe]\nmtu = 1", ", line 2: there is no key mtu in [peers.cafe]; there are allowed_ips,"),
        ("listen = 5", ", line 1: listen must be a section, [listen], of keys"),
        ("peers = []", ", line 1: peers must be a section, [peers], of keys"),
        ("[peers]\ncafe = 1", ", line 2: cafe must be a section, [peers.cafe], of keys"),
        (
            "[listen]\nport = 65536",
            ", line 2: port in [listen] must be a whole number from 0 to 65535, not 65536",
        ),
        (
            "[listen]\nport = true",
            ", line 2: port in [listen] must be a whole number from 0 to 65535, not true",
        ),
        (
            '[listen]\nport = "1"',
            ', line 2: port in [listen] must be a whole number from 0 to 65535, not "1"',
        ),
        ("listen = { port = 1.5 }", ": port in [listen] must be a whole number from 0 to 65535, not 1.5"),
        ("listen.port = -1", ": port in [listen] must be a whole number from 0 to 65535, not -1"),
        ('[listen]\naddress = "localhost"', ", line 2: address in [listen] must be an IP address, as"),
        ('[listen]\naddress = "fe80::1%eth0"', ", line 2: address in [listen] must be an IP address, as"),
        ('[listen]\nadvertise = "a:1"', ', line 2: advertise in [listen] must be a list, as in ["…", "…"]'),
        ('[listen]\nadvertise = ["a.example"]', ", line 2: advertise in [listen] must be host:port, as"),
        ('[listen]\nadvertise = ["2001:db8::1:99999"]', ", line 2: advertise in [listen] must be host:port"),
        (f"[listen]\nadvertise = {['h:1'] * 9}", ", line 2: advertise in [listen] may have 8 entries, not 9"),
        ("[interface]\nmtu = 1279", ", line 2: mtu in [interface] must be a whole number from 1280 to 8904"),
        ("[interface]\nmtu = 9000", ", line 2: mtu in [interface] must be a whole number from 1280 to 8904"),
        ('[interface]\nname = "a/b"', ", line 2: name in [interface] must be a network device's name"),
        ('[interface]\nname = "zeq%d"', ", line 2: name in [interface] must be a network device's name"),
        (
            f'[interface]\nname = "{"x" * 16}"',
            ", line 2: name in [interface] must be a network device's name",
        ),
        (
            '[interface]\naddresses = ["10.9.0.1/33"]',
            ", line 2: addresses in [interface] must be an address with",
        ),
        (
            '[interface]\nserve = ["192.168.7.1/24"]',
            ", line 2: serve in [interface] must be a network, not an address in one: "
            '"192.168.7.1/24" would be "192.168.7.0/24"',
        ),
        (
            '[interface]\nserve = ["0.0.0.0/0"]',
            ', line 2: serve in [interface] cannot be "0.0.0.0/0": sending',
        ),
        (
            '[interface]\nipv4_pool = "198.18.0.0/31"',
            ", line 2: ipv4_pool in [interface] must be an IPv4 network",
        ),
        (
            '[interface]\nipv4_pool = "fd00::/64"',
            ", line 2: ipv4_pool in [interface] must be an IPv4 network",
        ),
        (
            '[node]\nname = "Café"',
            ", line 2: name in [node] must be 1 to 32 of a to z, 0 to 9 and inner hyphens",
        ),
        (f'[node]\nname = "{"x" * 33}"', ", line 2: name in [node] must be 1 to 32 of a to z"),
        ('[node]\nstate = "here"', ", line 2: state in [node] must be a whole path, as"),
        ('[node]\nstate = ""', ", line 2: state in [node] must be a path, as"),
        ('[node]\nstate = "/a\\u0000b"', ", line 2: state in [node] must be a path, as"),
        ('[node]\nstate = "~nobody-here/x"', ", line 2: state in [node] names the home of a user that"),
        (
            '[node]\nlog = "loud"',
            ', line 2: log in [node] must be one of debug, info, warning, error, not "loud"',
        ),
        ("[node]\nlog = []", ", line 2: log in [node] must be one of debug, info, warning, error, not []"),
        ("[peers.cafe]\nkeepalive = 1", ", line 2: keepalive in [peers.cafe] must be true or false, not 1"),
        ('[peers.cafe]\nallowed_ips = ["::/0"]', ", line 2: allowed_ips in [peers.cafe] cannot be"),
        ('[peers."Big Café"]\n', ", line 1: [peers.Big Café] must name a peer by its pet name or its whole"),
        ("[peers.abcd-efgh-ijkl-mnop-qrst-uvwx-yz23-4567-abcd]", ", line 1: [peers.abcd-efgh-"),
        (
            '[peers.a]\nallowed_ips = ["10.0.0.0/8"]\n[peers.b]\nallowed_ips = ["10.0.0.0/8"]',
            ": 10.0.0.0/8 is behind a and behind b; give it to one of them",
        ),
        (
            f"[peers.{FINGERPRINT}]\n[peers.{FINGERPRINT.replace('-', '')}]",
            ", line 2: [peers.abcdabcd",
        ),
        (
            "[engine]\nqueues = 17",
            ', line 2: queues in [engine] must be "auto" or a whole number from 1 to 16, not 17',
        ),
        (
            '[engine]\nqueues = "many"',
            ', line 2: queues in [engine] must be "auto" or a whole number from 1 to 16, not "many"',
        ),
        (
            '[engine]\nmode = "fast"',
            ', line 2: mode in [engine] must be one of auto, span, segments, not "fast"',
        ),
        (
            '[engine]\nwithout = "uso"',
            ', line 2: without in [engine] must be a list, as in ["uso"], not "uso"',
        ),
        (
            "[relay]\nports = 8000",
            ", line 2: ports in [relay] must be a list, as in [8000], not 8000",
        ),
        (
            "[relay]\nports = [22, 0]",
            ", line 2: ports in [relay] must be a whole number from 1 to 65535, not 0",
        ),
        (
            f"[relay]\nports = {list(range(1, 66))}",
            ", line 2: ports in [relay] may have 64 entries, not 65",
        ),
        (
            '[engine]\nwithout = ["uso", "gso"]',
            ', line 2: without in [engine] may have uso, tso, vnet_hdr, udp_segment, udp_gro, not "gso"',
        ),
        (
            "[engine]\nwithout = [1]",
            ", line 2: without in [engine] may have uso, tso, vnet_hdr, udp_segment,",
        ),
        (
            '[engine]\nwithout = ["tso", "uso", "tso"]',
            ', line 2: without in [engine] has "tso" twice; keep one of them',
        ),
        (
            "[engine]\nrekey_seconds = 4",
            ", line 2: rekey_seconds in [engine] must be a whole number from 5 to 120, not 4",
        ),
        (
            "[engine]\nlargest_payload = 1231",
            ", line 2: largest_payload in [engine] must be 0 or a whole number from 1232 to 65507, not 1231",
        ),
        (
            "[engine]\nlargest_payload = false",
            ", line 2: largest_payload in [engine] must be 0 or a whole number from 1232 to 65507, not false",
        ),
        (
            "[dht]\nhomes = 4",
            ", line 2: homes in [dht] must be a whole number from 0 to 3, not 4",
        ),
        (
            '[dht]\npublic = "yes"',
            ', line 2: public in [dht] must be "auto" or true or false, not "yes"',
        ),
        (
            '[dht]\nseeds = ["192.0.2.1"]',
            ", line 2: seeds in [dht] must be host:port, as ",
        ),
        ("[node\n", " is not valid TOML: "),
        ("[node]\n[node]", " is not valid TOML: "),
        ("x = " + "[" * 5000, " is not valid TOML: nested too deeply"),
        ("x = " + "9" * 5000, " is not valid TOML: a number in it has too many digits"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(Usage) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith(f"{FILE}{sentence}")
    assert "\n" not in message


def test_a_long_or_unprintable_value_is_shown_cut_and_clean() -> None:
    with pytest.raises(Usage) as caught:
        parse(f'[node]\nlog = "\\u001b[31m{"x" * 1000}"')
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()


# ---------------------------------------------------------------------------- any text at all


def _all_keys() -> set[str]:
    return {key for parsers in module._PARSERS.values() for key in parsers}


KEYS = st.sampled_from([*module._SECTIONS, "peers", "cafe", "x", *sorted(_all_keys())])
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["::", "10.0.0.0/8", "10.0.0.1/8", "h:1", "[::1]:1", "/a", "~", "~x/y", "info", "fe80::1%1"]
    ),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def toml(value: Any) -> str:
    """TOML's inline spelling."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            characters = (c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in value)
            return '"' + "".join(characters) + '"'
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case _:
            return "{" + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + "}"


def taken_or_refused(text: str) -> None:
    try:
        config = parse(text)
    except Usage as error:
        refusal = str(error)
    else:
        assert config.to_dict().keys() == {*module._SECTIONS, "peers"}
        return
    assert refusal.startswith(str(FILE))
    assert "\n" not in refusal


@given(st.text())
@example("\x00")
@example("[[peers]]\n")
@example("peers.cafe.allowed_ips.x = 1\n")
def test_any_text_is_taken_or_refused_in_a_sentence(text: str) -> None:
    taken_or_refused(text)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_toml_is_taken_or_refused_in_a_sentence(document: dict[str, Any]) -> None:
    taken_or_refused("\n".join(f"{key} = {toml(value)}" for key, value in document.items()))


@given(st.data())
def test_any_value_of_a_known_key_is_taken_or_refused(data: st.DataObject) -> None:
    keys = [(kind, key) for kind, parsers in module._PARSERS.items() for key in parsers]
    kind, key = data.draw(st.sampled_from(keys))
    section = {kind: name for name, kind in module._SECTIONS.items()}.get(kind, "peers.cafe")
    taken_or_refused(f"[{section}]\n{key} = {toml(data.draw(VALUES))}")


# ---------------------------------------------------------------------------- which file


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    for missing in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(Usage, match="there is no configuration file"):
            Config.load(missing, {})
        with pytest.raises(Usage, match="there is no configuration file"):
            Config.load(None, {module.CONFIG_VARIABLE: str(missing)})


def test_the_search_takes_the_first_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, own, named = (
        tmp_path / "etc.toml",
        tmp_path / "own" / "zeqnode" / "zeqnode.toml",
        tmp_path / "n.toml",
    )
    own.parent.mkdir(parents=True)
    monkeypatch.setattr(module, "SYSTEM_FILE", system)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    assert Config.load(None, {}).path is None
    for number, file in enumerate((own, system, named), 1):
        file.write_text(f"[listen]\nport = {number}\n")
        env = {module.CONFIG_VARIABLE: str(named)} if file == named else {}
        config = Config.load(None, env)
        assert (config.path, config.listen.port) == (file, number)
    assert Config.load(own, env).listen.port == 1


def test_what_is_no_text_or_too_long_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "zeqnode.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(Usage, match="is not text in UTF-8"):
        Config.load(file, {})
    file.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(Usage, match="longer than 1 MiB"):
        Config.load(file, {})
    file.write_bytes(b"#" * (1 << 20))
    assert Config.load(file, {}).path == file


def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    file = tmp_path / "zeqnode.toml"
    file.touch(mode=0o000)
    with pytest.raises(StorageFailed, match="this user may not use"):
        Config.load(file, {})


def test_where_the_state_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state({"STATE_DIRECTORY": "/x"}) == Path("/var/lib/zeqnode")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_state({"STATE_DIRECTORY": "/var/lib/zeqnode:/other"}) == Path("/var/lib/zeqnode")
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere/state")
    assert default_state({}) == Path("/somewhere/state/zeqnode")


@pytest.mark.parametrize(
    ("host", "name"),
    [("Home.example.net", "home"), ("my_box-", "my-box"), ("-", "node"), ("x" * 40, "x" * 32), ("", "node")],
)
def test_the_hosts_name_becomes_a_pet_name(host: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert host_name() == name
    assert parse(f'[node]\nname = "{name}"').node.name == name


# ---------------------------------------------------------------------------- a private mesh


def test_the_meshs_secret_comes_from_the_environment_first(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("  the secret of the file\n")
    file.chmod(0o600)
    config = parse(f'[mesh]\nsecret_file = "{file}"')
    assert config.mesh_secret({}) == b"the secret of the file"
    assert (
        config.mesh_secret({"ZEQ_MESH_SECRET": "the one of the environment\n"})
        == b"the one of the environment"
    )
    assert Config().mesh_secret({}) is None


def test_a_secret_that_is_short_or_open_to_others_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("fifteen letters")
    file.chmod(0o600)
    config = parse(f'[mesh]\nsecret_file = "{file}"')
    for env in ({}, {"ZEQ_MESH_SECRET": ""}):
        with pytest.raises(Usage, match="openssl rand -hex 32") as caught:
            config.mesh_secret(env)
        assert "fifteen" not in str(caught.value)
    file.chmod(0o644)
    with pytest.raises(LoosePermissions):
        config.mesh_secret({})
    file.unlink()
    with pytest.raises(StorageFailed):
        config.mesh_secret({})
