"""A simulated world as a TOML file: who is in it, what happens to it, and what must come out. Pure.

about = "what it shows, in a line"
nodes = 1000                       # 2 to 100,000
minutes = 10                       # of virtual time, after all have joined
joining_seconds = 60               # the nodes come one after another within them, before the minutes begin
seed = 1
[network]
loss = 0.01                        # shares of all datagrams: those that are lost,
duplicate = 0.001                  # come twice,
reorder = 0.001                    # are overtaken
jitter_ms = 4                      # beside the distance
ipv6 = 0.0                         # the share of hosts that have an IPv6 address as well
clock_skew_seconds = 0             # every clock is off by up to this, either way
[nats]                             # what is left over of 1 has public addresses
full_cone = 0.1                    # shares of the nodes
restricted = 0.1
port_restricted = 0.3
symmetric = 0.1
timeout_seconds = 30               # of silence, after which a NAT forgets
hairpin = false                    # whether hosts behind one NAT reach each other by its address
hosts = 1                          # behind one NAT
[[partitions]]                     # two parts of the world do not hear each other
at_minute = 2
minutes = 1
share = 0.3                        # of the nodes, in the smaller part
[work]
churn_per_minute = 0.05            # the share of nodes that vanishes; for each another one comes
lookup_minutes = 5                 # each node looks somebody up once in this time; 0: never
offers_per_minute = 30             # in the whole world
[attackers]                        # beside the nodes
kind = "poison"                    # or "eclipse", "sybils": simulations/attackers.py says what each does
share = 0.2                        # of all, attackers included; or, in its place:
# per_node = 40                    # attackers for each node
per_network = 1                    # attackers in one /24
choice = 20                        # networks that an eclipser can have for each in which it is
joining_seconds = 60               # sybils come one after another within them, from the beginning on
listed = true                      # whether sybils answer in the DHT, so that nodes call them too
[criteria]                         # a figure, and what it must reach (simulations/figures.py has them all)
lookups_right = 0.995
mean_hops = 5
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from simulations.dice import MILLION
from simulations.errors import ScenarioError
from simulations.figures import FIGURES
from simulations.lab.table import Table
from simulations.nats import Kind
from simulations.network import Conditions

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
SHIPPED: Final = Path(__file__).with_name("scenarios")
MOST_NODES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Nats:
    """`shares`: of the nodes, in millionths, by kind."""

    shares: tuple[tuple[Kind, int], ...] = ()
    timeout_us: int = 30 * SECOND_US
    hairpin: bool = False
    hosts: int = 1


@dataclass(frozen=True, slots=True)
class Partition:
    """From and to: of the minutes that count."""

    from_us: int
    to_us: int
    share_ppm: int


@dataclass(frozen=True, slots=True)
class Work:
    """`churn_ppm`: nodes a minute, in millionths of all. `lookup_us`: between a node's lookups; 0: none."""

    churn_ppm: int = 0
    lookup_us: int = 5 * MINUTE_US
    offers_per_minute: int = 0


class AttackKind(StrEnum):
    ECLIPSE = "eclipse"
    POISON = "poison"
    SYBILS = "sybils"


@dataclass(frozen=True, slots=True)
class Attackers:
    """`share_ppm`: of all; `per_node`: for each honest node. One of them is 0."""

    kind: AttackKind
    share_ppm: int
    per_node: int
    per_network: int
    choice: int
    joining_us: int
    listed: bool

    def among(self, nodes: int) -> int:
        """How many they are beside so many honest nodes; one at least."""
        if self.per_node:
            return self.per_node * nodes
        return max(1, self.share_ppm * nodes // (MILLION - self.share_ppm))


@dataclass(frozen=True, slots=True)
class Scenario:
    """`criteria`: a key of FIGURES and its limit."""

    name: str
    about: str
    nodes: int
    minutes: int
    joining_us: int
    seed: int
    network: Conditions
    ipv6_ppm: int
    skew_us: int
    nats: Nats
    partitions: tuple[Partition, ...]
    work: Work
    attackers: Attackers | None
    criteria: tuple[tuple[str, float], ...]

    def changed(self, nodes: int | None, minutes: int | None, seed: int | None) -> Scenario:
        """With what the command line says instead. Raises ScenarioError."""
        changed = replace(
            self,
            nodes=self.nodes if nodes is None else nodes,
            minutes=self.minutes if minutes is None else minutes,
            seed=self.seed if seed is None else seed,
        )
        _check_sizes(_Table(self.name, "", {}), changed.nodes, changed.minutes, changed.seed)
        return changed


class _Table(Table):
    error = ScenarioError

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        value: int = self.take(key, int, f"a whole number from {low} to {high}", default)
        if not low <= value <= high:
            raise self.fail(f"{key} must lie between {low} and {high}, not {value}.")
        return value

    def ppm(self, key: str) -> int:
        """A share from 0 to 1, in millionths."""
        value: float = self.take(key, (int, float), "a share from 0 to 1", 0)
        if not 0 <= value <= 1:
            raise self.fail(f"{key} is a share: give a number from 0 to 1, not {value}.")
        return round(value * MILLION)

    def table(self, key: str) -> _Table:
        return _Table(self.source, key, self.take(key, dict, f"a table: write [{key}]", {}))


def shipped() -> list[Path]:
    """The scenarios that come with zeqnode, by name."""
    return sorted(SHIPPED.glob("*.toml"))


def load(name: str) -> Scenario:
    """A path, or the name of one that is shipped, with or without its .toml. Raises ScenarioError."""
    path = Path(name)
    bundled = SHIPPED / f"{path.name.removesuffix('.toml')}.toml"
    if not path.exists() and path.parent == Path() and bundled.exists():
        path = bundled
    try:
        return parse(path.read_text(encoding="utf-8"), path.name)
    except OSError as error:
        names = ", ".join(each.stem for each in shipped())
        raise ScenarioError(
            f"{path} cannot be read ({error.strerror}): check the path, or take one of {names}."
        ) from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{path} is not a text file: save it as UTF-8.") from None


def parse(text: str, source: str) -> Scenario:
    """Raises ScenarioError, whose text begins with `source` and the table."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{source} is not valid TOML: {error}.") from None
    top = _Table(source, "", document)
    about = top.take("about", str, "what the scenario shows, in a line", "")
    nodes = top.take("nodes", int, "a whole number")
    minutes = top.take("minutes", int, "a whole number of minutes")
    if nodes is None or minutes is None:
        raise top.fail("say how large the world is: nodes = 1000 and minutes = 10.")
    joining_s, seed = top.whole("joining_seconds", 60, 1, 3600), top.whole("seed", 1, 0, 2**63 - 1)
    _check_sizes(top, nodes, minutes, seed)
    network, nats, work = (top.table(key) for key in ("network", "nats", "work"))
    partitions = top.take("partitions", list, "tables: write [[partitions]]", [])
    attackers, criteria = top.table("attackers"), top.table("criteria")
    top.finish()
    conditions = Conditions(
        loss_ppm=network.ppm("loss"),
        duplicate_ppm=network.ppm("duplicate"),
        reorder_ppm=network.ppm("reorder"),
        jitter_us=network.whole("jitter_ms", 4, 0, 1_000) * 1_000,
    )
    ipv6_ppm, skew_s = network.ppm("ipv6"), network.whole("clock_skew_seconds", 0, 0, 86_400)
    network.finish()
    return Scenario(
        name=source.removesuffix(".toml"),
        about=about,
        nodes=nodes,
        minutes=minutes,
        joining_us=joining_s * SECOND_US,
        seed=seed,
        network=conditions,
        ipv6_ppm=ipv6_ppm,
        skew_us=skew_s * SECOND_US,
        nats=_nats(nats),
        partitions=_partitions(source, partitions, minutes),
        work=_work(work),
        attackers=_attackers(attackers, nodes) if "attackers" in document else None,
        criteria=_criteria(criteria),
    )


def _check_sizes(table: _Table, nodes: int, minutes: int, seed: int) -> None:
    for key, value, low, high in (
        ("nodes", nodes, 2, MOST_NODES),
        ("minutes", minutes, 1, 24 * 60),
        ("seed", seed, 0, 2**63 - 1),
    ):
        if not low <= value <= high:
            raise table.fail(f"{key} must lie between {low} and {high}, not {value}.")


def _nats(table: _Table) -> Nats:
    shares = tuple((kind, table.ppm(kind.value)) for kind in Kind)
    if sum(share for _, share in shares) >= MILLION:
        raise table.fail("the shares must leave some nodes public: let their sum be below 1.")
    nats = Nats(
        shares=tuple((kind, share) for kind, share in shares if share),
        timeout_us=table.whole("timeout_seconds", 30, 1, 86_400) * SECOND_US,
        hairpin=table.take("hairpin", bool, "true or false", False),
        hosts=table.whole("hosts", 1, 1, 250),
    )
    table.finish()
    return nats


def _partitions(source: str, rows: list[Any], minutes: int) -> tuple[Partition, ...]:
    found: list[Partition] = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ScenarioError(f"{source}: partitions must be tables: write [[partitions]].")
        table = _Table(source, f"partitions {number}", row)
        start = table.whole("at_minute", 0, 0, minutes - 1)
        length, share_ppm = table.whole("minutes", 1, 1, minutes), table.ppm("share")
        table.finish()
        if not share_ppm:
            raise table.fail("say how many of the nodes are in the smaller part: share = 0.3.")
        if found and start * MINUTE_US < found[-1].to_us:
            raise table.fail("it begins before the one before it has ended: let one follow the other.")
        found.append(Partition(start * MINUTE_US, (start + length) * MINUTE_US, share_ppm))
    return tuple(found)


def _work(table: _Table) -> Work:
    work = Work(
        churn_ppm=table.ppm("churn_per_minute"),
        lookup_us=table.whole("lookup_minutes", 5, 0, 24 * 60) * MINUTE_US,
        offers_per_minute=table.whole("offers_per_minute", 0, 0, 6_000),
    )
    table.finish()
    return work


def _attackers(table: _Table, nodes: int) -> Attackers:
    name = table.take("kind", str, "a word", "")
    if name not in list(AttackKind):
        raise table.fail(f"say what they do: kind = one of {', '.join(AttackKind)}.")
    attackers = Attackers(
        kind=AttackKind(name),
        share_ppm=table.ppm("share"),
        per_node=table.whole("per_node", 0, 0, 1_000),
        per_network=table.whole("per_network", 1, 1, 250),
        choice=table.whole("choice", 20, 1, 1_000),
        joining_us=table.whole("joining_seconds", 60, 1, 3600) * SECOND_US,
        listed=table.take("listed", bool, "true or false", True),
    )
    table.finish()
    if (attackers.share_ppm == 0) == (attackers.per_node == 0) or attackers.share_ppm == MILLION:
        raise table.fail("say how many there are: share = 0.2 of all, or per_node = 40.")
    if attackers.among(nodes) > MOST_NODES:
        raise table.fail(f"{attackers.among(nodes)} attackers are too many: at most {MOST_NODES}.")
    return attackers


def _criteria(table: _Table) -> tuple[tuple[str, float], ...]:
    taken = [(key, table.take(key, (int, float), "a number")) for key in FIGURES]
    table.finish()
    return tuple((key, float(limit)) for key, limit in taken if limit is not None)
