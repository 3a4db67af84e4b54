"""The configuration: one TOML file, every key optional, nothing taken that is not understood.

    [node]        name state log log_format
    [listen]      port address advertise
    [interface]   name mtu addresses serve ipv4_pool
    [mesh]        secret_file
    [dht]         enabled seeds lan public homes
    [engine]      queues mode without rekey_seconds largest_payload
    [relay]       accept allow ports                                                  node/config_market.py
    [credit]      stranger_zeq strangers_per_day_zeq
    [ledger]      enabled
    [api]         enabled port socket hosts reads_per_minute writes_per_minute
    [peers.cafe]  allowed_ips keepalive endpoints        by pet name or by whole fingerprint

It is `--config FILE`, else $ZEQNODE_CONFIG, else the first that is there of /etc/zeqnode/zeqnode.toml and
zeqnode.toml in the user's configuration folder; without any, the defaults below hold.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Network, IPv6Address
from pathlib import Path
from typing import Any, Final

from node import config_market as market
from node import config_values as values
from node.config_file import Document
from node.config_values import IPAddress, IPInterface, IPNetwork, Wrong, shown
from node.errors import Usage
from node.files import read_private, sentences
from tun.names4 import DEFAULT_POOL

CONFIG_VARIABLE: Final = "ZEQNODE_CONFIG"
MESH_SECRET_VARIABLE: Final = "ZEQ_MESH_SECRET"  # noqa: S105  the variable's name, no secret
ANY_ADDRESS: Final = IPv6Address("::")
SYSTEM_FILE: Final = Path("/etc/zeqnode/zeqnode.toml")
SYSTEM_STATE: Final = Path("/var/lib/zeqnode")

# What [engine] without may name: parts of the kernel that the engine goes without, of the TUN and of UDP.
OFFLOADS: Final = ("uso", "tso", "vnet_hdr", "udp_segment", "udp_gro")

_QUEUES_AUTO_MAX: Final = 8
_FILE_BYTES_MAX: Final = 1 << 20
_MESH_SECRET_CHARS_MIN: Final = 16
_FINGERPRINT: Final = re.compile(r"[a-z2-7]{52}")


def default_state(env: Mapping[str, str] = os.environ) -> Path:
    """/var/lib/zeqnode for root; a service's directory where systemd names one; else the user's."""
    if os.geteuid() == 0:
        return SYSTEM_STATE
    if given := env.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    import platformdirs

    return Path(platformdirs.user_state_dir("zeqnode", appauthor=False))


def host_name() -> str:
    """The host's name as a pet name: the part before the first dot, cleaned; "node" if nothing is left."""
    plain = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().partition(".")[0].lower())
    return plain.strip("-")[:32].rstrip("-") or "node"


@dataclass(frozen=True)
class Node:
    """`name` is what those whom one invites see first; `state` holds everything that this machine keeps."""

    name: str = field(default_factory=host_name)
    state: Path = field(default_factory=default_state)
    log: str = "info"
    log_format: str = "text"


@dataclass(frozen=True)
class Listen:
    """The UDP socket: port 0 is any free one, "::" is both families; `advertise` goes into invitations."""

    port: int = 51777
    address: IPAddress = ANY_ADDRESS
    advertise: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interface:
    """The TUN. `mtu` in bytes; `addresses` are extra ones; `serve` are networks that peers may reach here."""

    name: str = "zeq0"
    mtu: int = 1404
    addresses: tuple[IPInterface, ...] = ()
    serve: tuple[IPNetwork, ...] = ()
    ipv4_pool: IPv4Network = DEFAULT_POOL


@dataclass(frozen=True)
class Mesh:
    """A private mesh's secret; where one is set, machines of other meshes get no tunnel."""

    secret_file: Path | None = None


@dataclass(frozen=True)
class Dht:
    """Discovery. `seeds` are nodes to begin with, besides those that are remembered; `lan`: ask in the local
    network too; `public`: whether to answer and store for others, "auto" if they can reach this machine;
    `homes`: how many nodes to be called through while they cannot."""

    enabled: bool = True
    seeds: tuple[str, ...] = ()
    lan: bool = True
    public: bool | str = "auto"
    homes: int = 3


@dataclass(frozen=True)
class Engine:
    """The data path. `queues` of the TUN, each with a process of its own; `mode`: how super-packets travel;
    `without`: what is not used though the kernel has it, for tests and odd kernels; `rekey_seconds`: a
    session's age at which a new handshake is made; `largest_payload`: the most bytes of a UDP datagram that
    are tried on a path, 0 for what the interface's MTU needs."""

    queues: int | str = "auto"
    mode: str = "auto"
    without: tuple[str, ...] = ()
    rekey_seconds: int = 120
    largest_payload: int = 0

    def queue_count(self) -> int:
        """The number of queues; "auto" leaves half of the cores to the programs, and to the kernel."""
        if isinstance(self.queues, int):
            return self.queues
        cores = len(os.sched_getaffinity(0))
        return 1 if cores < 4 else min(cores // 2, _QUEUES_AUTO_MAX)


@dataclass(frozen=True)
class PeerOptions:
    """`allowed_ips` are networks behind the peer; `endpoints` are addresses to try besides those known."""

    allowed_ips: tuple[IPNetwork, ...] = ()
    keepalive: bool = False
    endpoints: tuple[str, ...] = ()


_SECTIONS: Final = {
    "node": Node,
    "listen": Listen,
    "interface": Interface,
    "mesh": Mesh,
    "dht": Dht,
    "engine": Engine,
    **market.SECTIONS,
}
_FIXED: Final = ("interface", "mesh", "engine", "ledger", "api")
_PARSERS: Final[dict[type, dict[str, Callable[[object], object]]]] = {
    Node: {
        "name": values.pet_name,
        "state": values.directory,
        "log": values.choice("debug", "info", "warning", "error"),
        "log_format": values.choice("text", "json"),
    },
    Listen: {
        "port": values.whole(0, 65535),
        "address": values.address,
        "advertise": values.list_of(values.endpoint, 8),
    },
    Interface: {
        "name": values.device_name,
        "mtu": values.whole(1280, 8904),
        "addresses": values.list_of(values.interface_address, 64),
        "serve": values.list_of(values.network, 1024),
        "ipv4_pool": values.ipv4_pool,
    },
    Mesh: {"secret_file": values.file_or_none},
    Dht: {
        "enabled": values.yes_or_no,
        "seeds": values.list_of(values.endpoint, 64),
        "lan": values.yes_or_no,
        "public": values.either("auto", values.yes_or_no),
        "homes": values.whole(0, 3),
    },
    Engine: {
        "queues": values.either("auto", values.whole(1, 16)),
        "mode": values.choice("auto", "span", "segments"),
        "without": values.some_of(*OFFLOADS),
        "rekey_seconds": values.whole(5, 120),
        "largest_payload": values.zero_or(1232, 65507),
    },
    PeerOptions: {
        "allowed_ips": values.list_of(values.network, 1024),
        "keepalive": values.yes_or_no,
        "endpoints": values.list_of(values.endpoint, 8),
    },
    **market.PARSERS,
}


@dataclass(frozen=True)
class Config:
    """The whole configuration; `path` is the file that it came from, None where there was none."""

    node: Node = field(default_factory=Node)
    listen: Listen = field(default_factory=Listen)
    interface: Interface = field(default_factory=Interface)
    mesh: Mesh = field(default_factory=Mesh)
    dht: Dht = field(default_factory=Dht)
    engine: Engine = field(default_factory=Engine)
    relay: market.Relay = field(default_factory=market.Relay)
    credit: market.Credit = field(default_factory=market.Credit)
    ledger: market.Ledger = field(default_factory=market.Ledger)
    api: market.Api = field(default_factory=market.Api)
    peers: Mapping[str, PeerOptions] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def load(cls, path: Path | None = None, env: Mapping[str, str] = os.environ) -> Config:
        """Read `path`, or what the search finds; raises Usage, or StorageFailed if it cannot be read."""
        found = path or _search(env)
        if found is None:
            return cls()
        if not found.is_file():
            raise Usage(f"there is no configuration file {found}; name one that is there, or none at all")
        with sentences(found), found.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
        if len(data) > _FILE_BYTES_MAX:
            raise Usage(f"{found} is longer than 1 MiB; is it the configuration?")
        try:
            return cls.parse(data.decode("utf-8"), found)
        except UnicodeDecodeError:
            raise Usage(f"{found} is not text in UTF-8; is it the configuration?") from None

    @classmethod
    def parse(cls, text: str, path: Path) -> Config:
        """Read the text of the file `path`; raises Usage, whatever the text."""
        document = Document(path, text)
        document.refuse_unknown((), document.content, [*_SECTIONS, "peers"])
        sections: dict[str, Any] = {
            name: kind(**document.section((name,), _PARSERS[kind])) for name, kind in _SECTIONS.items()
        }
        return cls(**sections, peers=_peers(document), path=path)

    def taking_up(self, new: Config) -> tuple[Config, list[str]]:
        """What holds after a reload of `new` by a running node, and the names of sections that have changed
        in what only a start takes up."""
        node = replace(new.node, state=self.node.state)
        listen = replace(new.listen, port=self.listen.port, address=self.listen.address)
        kept = {name: getattr(self, name) for name in _FIXED}
        taken = replace(new, node=node, listen=listen, dht=replace(self.dht, seeds=new.dht.seeds), **kept)
        changed = [name for name in _SECTIONS if getattr(taken, name) != getattr(new, name)]
        return taken, [name for name in changed if name != "node"]

    def peer(self, name: str, fingerprint: str) -> PeerOptions:
        """The options of the peer with this pet name and fingerprint; its fingerprint counts first."""
        return self.peers.get(_compact(fingerprint)) or self.peers.get(name) or PeerOptions()

    def mesh_secret(self, env: Mapping[str, str] = os.environ) -> bytes | None:
        """$ZEQ_MESH_SECRET, else the content of mesh.secret_file, without blanks around it; None if neither.

        Raises Usage if it is too short to be a secret; LoosePermissions or another StorageFailed.
        """
        if MESH_SECRET_VARIABLE in env:
            secret, where = os.fsencode(env[MESH_SECRET_VARIABLE]).strip(), MESH_SECRET_VARIABLE
        elif self.mesh.secret_file:
            secret, where = read_private(self.mesh.secret_file).strip(), str(self.mesh.secret_file)
        else:
            return None
        if len(secret) < _MESH_SECRET_CHARS_MIN:
            raise Usage(
                f"{where} has {len(secret)} characters, and a mesh's secret takes {_MESH_SECRET_CHARS_MIN} "
                "or more; make one with: openssl rand -hex 32"
            )
        return secret

    def to_dict(self) -> dict[str, Any]:
        """The effective values, for `config check`: sections of plain strings, numbers, lists."""
        sections: dict[str, Any] = {name: _plain_section(getattr(self, name)) for name in _SECTIONS}
        return sections | {"peers": {name: _plain_section(each) for name, each in self.peers.items()}}


def _peers(document: Document) -> dict[str, PeerOptions]:
    found: dict[str, PeerOptions] = {}
    owners: dict[IPNetwork, str] = {}
    for key in document.table(("peers",)):
        peer = _peer_key(document, key)
        if peer in found:
            raise Usage(f"{document.place(('peers',), key)}: [peers.{key}] stands twice; keep one of them")
        found[peer] = PeerOptions(**document.section(("peers", key), _PARSERS[PeerOptions]))
        for network in found[peer].allowed_ips:
            if owner := owners.get(network):
                raise Usage(
                    f"{document.path}: {network} is behind {owner} and behind {key}; give it to one of them"
                )
            owners[network] = key
    return found


def _peer_key(document: Document, key: str) -> str:
    compact = _compact(key)
    if _FINGERPRINT.fullmatch(compact):
        return compact
    try:
        return values.pet_name(key)
    except Wrong:
        raise Usage(
            f"{document.place(('peers',), key)}: [peers.{shown(key)[1:-1]}] must name a peer by its pet name "
            "or its whole fingerprint; both are in `zeqnode status`"
        ) from None


def _search(env: Mapping[str, str]) -> Path | None:
    if given := env.get(CONFIG_VARIABLE):
        return Path(given)
    if SYSTEM_FILE.is_file():
        return SYSTEM_FILE
    import platformdirs

    own = Path(platformdirs.user_config_dir("zeqnode", appauthor=False)) / "zeqnode.toml"
    return own if own.is_file() else None


def _compact(fingerprint: str) -> str:
    return fingerprint.replace("-", "").lower()


def _plain_section(section: Any) -> dict[str, Any]:
    return {each.name: _plain(getattr(section, each.name)) for each in fields(section)}


def _plain(value: object) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int) else str(value)
