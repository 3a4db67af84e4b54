"""All of a run as one value of plain parts: what --json prints and --save keeps, tables and pictures show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Final, get_args

from dht import messages
from simulations.attackers import Attack
from simulations.course import Course
from simulations.figures import histogram, mean, meets, quantile
from simulations.host import Counts
from simulations.scenario import MINUTE_US, SECOND_US, Scenario
from simulations.workload import CURVE_MS, HORIZON_US, IN_TIME_MS, Lookups, Workload

FORMAT: Final = 1
_TIME_BIN_MS: Final = 100
_LOAD_BINS: Final = 40
_FAMILIES: Final = {
    messages.DHT: ("DHT", messages.DhtMessage),
    messages.GOSSIP: ("gossip", messages.GossipMessage),
    messages.CALLS: ("calls", messages.CallMessage),
}
_KINDS: Final = {
    (first, kind.__struct_config__.tag): f"{name} {kind.__name__}"
    for first, (name, union) in _FAMILIES.items()
    for kind in get_args(union)
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took on this machine. `memory_bytes`: resident, above what there was before the world."""

    wall_s: float
    memory_bytes: int


def of(course: Course, cost: Cost) -> dict[str, Any]:
    """A course that is over."""
    figures = _figures(course, cost)
    criteria = [
        {"key": key, "limit": limit, "value": figures[key], "met": meets(key, figures[key], limit)}
        for key, limit in course.scenario.criteria
    ]
    return {
        "format": FORMAT,
        "scenario": _scenario(course.scenario),
        "met": all(each["met"] for each in criteria),
        "criteria": criteria,
        "figures": figures,
        "trace": course.world.trace,
        "delivered": course.world.delivered,
        "population": {
            "joined": len(course.population.all),
            "left": course.churn.left,
            "public": sum(host.is_public for host in course.world.hosts.values() if not host.hostile),
        },
        "attack": None if course.attack is None else _attack(course, course.attack),
        "lookups": _lookups(course.workload.lookups),
        "offers": _offers(course.workload),
        "load": _load(course.counts),
        "kinds": _kinds(course),
        "network": dict(sorted(course.world.network.counters.items())),
        "cores": dict(sorted(course.cores.items())),
    }


def _scenario(scenario: Scenario) -> dict[str, Any]:
    plain = asdict(scenario)
    plain["partitions"] = [asdict(partition) for partition in scenario.partitions]
    plain["nats"]["shares"] = {kind.value: share for kind, share in scenario.nats.shares}
    plain["criteria"] = dict(scenario.criteria)
    if scenario.attackers is not None:
        plain["attackers"]["kind"] = scenario.attackers.kind.value
    return plain


def _figures(course: Course, cost: Cost) -> dict[str, float | None]:
    """By the keys of simulations/figures.py."""
    work, lookups = course.workload, course.workload.lookups
    times = sorted(lookups.times_ms)
    judged = lookups.started - lookups.asker_left
    node_us = sum(measured_us for measured_us, _ in course.counts)
    sent = sum(counts.sent for _, counts in course.counts)
    sent_bytes = sum(counts.sent_bytes for _, counts in course.counts)
    loads = _per_minute(course.counts)
    attackers = 0 if course.attack is None else course.attack.count
    t99 = [spread.t99_ms for spread in work.spreads]
    victim = work.of_victim
    never = [HORIZON_US // 1_000] * (work.subscribed - len(work.delays_ms))
    p99 = quantile(sorted(work.delays_ms) + never, 99)
    return {
        "lookups_right": _ratio(lookups.right, judged),
        "lookups_wrong": lookups.wrong + victim.wrong,
        "victim_lookups_right": _ratio(victim.right, victim.started - victim.asker_left),
        "mean_hops": _digits(mean(lookups.hops)),
        "lookup_p50_s": _seconds(quantile(times, 50)),
        "lookup_p99_s": _seconds(quantile(times, 99)),
        "messages_per_lookup": _digits(mean(lookups.messages)),
        "offers_covered": _ratio(
            sum(t99_ms is not None and t99_ms <= IN_TIME_MS for t99_ms in t99), len(work.spreads)
        ),
        "offer_coverage": _ratio(sum(spread.reached for spread in work.spreads), work.subscribed),
        "offer_t50_s": _mean_seconds([spread.t50_ms for spread in work.spreads]),
        "offer_t90_s": _mean_seconds([spread.t90_ms for spread in work.spreads]),
        "offer_t99_s": _mean_seconds(t99),
        "offer_t99_worst_s": _seconds(max((each for each in t99 if each is not None), default=None))
        if None not in t99
        else None,
        "delivery_p99_s": _seconds(p99) if p99 != HORIZON_US // 1_000 else None,
        "datagrams_per_node_minute": _digits(_ratio(sent * MINUTE_US, node_us)),
        "bytes_per_node_second": _digits(_ratio(sent_bytes * SECOND_US, node_us)),
        "load_p99": quantile(loads, 99),
        "memory_per_node_kib": _digits(cost.memory_bytes / 1024 / (course.scenario.nodes + attackers)),
        "wall_s": _digits(cost.wall_s),
        "datagrams_per_wall_second": _digits(_ratio(course.world.delivered, cost.wall_s)),
    }


def _lookups(lookups: Lookups) -> dict[str, Any]:
    ended = lookups.right + lookups.wrong + lookups.empty + lookups.asker_left
    return {
        "started": lookups.started,
        "right": lookups.right,
        "wrong": lookups.wrong,
        "empty": lookups.empty,
        "asker_left": lookups.asker_left,
        "without_end": lookups.started - ended,
        "hops": _rows(lookups.hops),
        "messages": _rows(lookups.messages),
        "times_ms": {"width": _TIME_BIN_MS, "bins": _rows(histogram(lookups.times_ms, _TIME_BIN_MS))},
    }


def _attack(course: Course, attack: Attack) -> dict[str, Any]:
    """`lies`: answers and promises that were none, by what they were."""
    return {
        "attackers": attack.count,
        "networks": attack.networks,
        "datagrams": course.hostile,
        "lies": dict(sorted(attack.lies.items())),
        "victim": None if course.workload.victim is None else _lookups(course.workload.of_victim),
    }


def _offers(work: Workload) -> dict[str, Any]:
    """`curve`: after so many ms, the share of all nodes that should hear an offer and have heard it."""
    heard = accumulate(work.curve[step] for step in range(max(work.curve, default=0) + 1))
    shares = [_ratio(count, work.subscribed) or 0.0 for count in heard]
    curve = [[0, 0.0], *([CURVE_MS * number, share] for number, share in enumerate(shares, 1))]
    return {
        "published": len(work.spreads) + work.stillborn,
        "stillborn": work.stillborn,
        "curve": curve,
        "spreads": [asdict(spread) for spread in work.spreads],
    }


def _load(counts: Sequence[tuple[int, Counts]]) -> dict[str, Any]:
    """Of nodes that were there for a minute and more: datagrams a minute, in and out."""
    loads = _per_minute(counts)
    width = max(1, -(-(loads[-1] if loads else 0) // _LOAD_BINS))
    return {
        "p50": quantile(loads, 50),
        "p90": quantile(loads, 90),
        "p99": quantile(loads, 99),
        "most": loads[-1] if loads else None,
        "width": width,
        "bins": _rows(histogram(loads, width)),
    }


def _per_minute(counts: Sequence[tuple[int, Counts]]) -> list[int]:
    return sorted(
        (each.sent + each.received) * MINUTE_US // measured_us
        for measured_us, each in counts
        if measured_us >= MINUTE_US
    )


def _kinds(course: Course) -> dict[str, float]:
    """Datagrams sent by a node in a minute, by kind, most first."""
    node_us = sum(measured_us for measured_us, _ in course.counts)
    named: Counter[str] = Counter()
    for head, times in course.kinds.items():
        named[kind_of(head)] += times
    return {
        kind: _digits(_ratio(times * MINUTE_US, node_us)) or 0.0
        for kind, times in sorted(named.items(), key=lambda item: (-item[1], item[0]))
    }


def kind_of(head: bytes) -> str:
    """A name for a datagram that begins so: "DHT Find"; its bytes where it is none of ours."""
    return _KINDS.get((head[0], head[2]), head.hex()) if len(head) == 3 else head.hex()


def _rows(counted: Mapping[int, int]) -> list[list[int]]:
    return [[value, times] for value, times in sorted(counted.items())]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _digits(value: float | None) -> float | None:
    """Five tell more than any of these figures does."""
    return None if value is None else float(f"{value:.5g}")


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def _mean_seconds(ms: Sequence[int | None]) -> float | None:
    """None where one of them never came."""
    known = [each for each in ms if each is not None]
    return _digits(sum(known) / len(known) / 1000) if known and len(known) == len(ms) else None
