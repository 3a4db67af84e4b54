"""The heap, the timers and the network of a simulated world, with cores of a few lines."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.endpoints import Endpoint, Scope, network, parse, scope, unpack, usable
from simulations.dice import MILLION, Dice, Entropy
from simulations.host import Host, Site
from simulations.nats import Kind, Nat
from simulations.network import LATE_US, Conditions
from simulations.places import ACCESS_US, ONE_WAY_US, PORT, REGIONS, Places
from simulations.world import SPIN_US, START_UNIX_US, World

NEVER_US = 1 << 62
SECOND_US = 1_000_000


class Listener:
    """Keeps what comes, and is woken when `at_us` says."""

    def __init__(self) -> None:
        self.outgoing: list[tuple[bytes, Endpoint]] = []
        self.events: list[Any] = []
        self.counters: Counter[str] = Counter()
        self.got: list[tuple[bytes, Endpoint, int]] = []
        self.ticks: list[int] = []
        self.unix_us = 0
        self.at_us = NEVER_US

    def receive(self, datagram: bytes, source: Endpoint, now_us: int, unix_us: int) -> None:
        self.got.append((datagram, source, now_us))
        self.unix_us = unix_us

    def tick(self, now_us: int, unix_us: int) -> None:
        self.ticks.append(now_us)
        self.at_us = NEVER_US

    def deadline_us(self) -> int:
        return self.at_us


class Small:
    """A world with listeners."""

    def __init__(self, conditions: Conditions = Conditions(), seed: int = 1) -> None:  # noqa: B008
        self.world = World(seed, conditions, lambda _host: None)

    def host(self, endpoint: str, site: Site | None = None, endpoint6: str = "", skew_us: int = 0) -> Host:
        packed6 = parse(endpoint6) if endpoint6 else b""
        index = len(self.world.hosts)
        host = Host(index, site or Site(2, 5_000, 500_000), parse(endpoint), packed6, skew_us)
        self.world.add(host, Listener())
        return host

    def send(self, host: Host, destination: Endpoint, datagram: bytes = b"\xd0hello", times: int = 1) -> None:
        host.core.outgoing += [(datagram, destination)] * times
        self.world.settle(host)

    def run(self, seconds: int = 2) -> None:
        self.world.run(self.world.now_us + seconds * SECOND_US)


def got(host: Host) -> list[tuple[bytes, Endpoint, int]]:
    assert isinstance(host.core, Listener)
    return host.core.got


def listener(host: Host) -> Listener:
    assert isinstance(host.core, Listener)
    return host.core


# ---------------------------------------------------------------------------------- heap and timers


@given(st.lists(st.integers(0, 20), max_size=50))
def test_what_is_due_first_comes_first_and_ties_go_by_insertion(times: list[int]) -> None:
    world, done = World(1, Conditions(), lambda _host: None), list[tuple[int, int]]()
    for number, time_us in enumerate(times):
        world.call_at(time_us, lambda *entry: done.append(entry), time_us, number)
    world.run(20)
    assert done == sorted((time_us, number) for number, time_us in enumerate(times))


def test_nothing_is_done_before_now_nor_after_the_end() -> None:
    world, done = World(1, Conditions(), lambda _host: None), list[int]()
    world.run(100)
    world.call_at(50, lambda: done.append(world.now_us))
    world.call_at(201, lambda: done.append(world.now_us))
    world.run(200)
    assert done == [100]
    assert world.now_us == 200
    world.run(201)
    assert done == [100, 201]


def test_a_core_is_woken_at_its_deadline_once() -> None:
    small = Small()
    host = small.host("11.0.0.1:51777")
    listener(host).at_us = 700
    small.world.settle(host)
    listener(host).at_us = 300  # earlier: the first timer is void
    small.world.settle(host)
    small.run()
    assert listener(host).ticks == [300]


def test_a_deadline_that_was_put_off_gives_no_tick_before() -> None:
    small = Small()
    host = small.host("11.0.0.1:51777")
    listener(host).at_us = 300
    small.world.settle(host)
    listener(host).at_us = 900
    small.run()
    assert listener(host).ticks == [900]


def test_a_core_that_is_never_content_does_not_stop_the_world() -> None:
    class Spinner(Listener):
        def tick(self, now_us: int, unix_us: int) -> None:
            self.ticks.append(now_us)

    small = Small()
    host = Host(0, Site(0, 0, 0), parse("11.0.0.1:51777"))
    core = Spinner()
    core.at_us = 0
    small.world.add(host, core)
    small.world.run(100 * SPIN_US)
    assert len(core.ticks) == 101


def test_who_is_gone_neither_hears_nor_wakes() -> None:
    small = Small()
    a, b = small.host("11.0.0.1:51777"), small.host("12.0.0.1:51777")
    core = listener(b)
    core.at_us = 100
    small.world.settle(b)
    small.send(a, b.endpoint)
    small.world.remove(b)
    small.run()
    assert not core.ticks
    assert not core.got
    assert small.world.network.counters == {"nobody there": 1}


def test_a_clock_that_is_off_shows_in_unix_time_alone() -> None:
    small = Small()
    a, b = small.host("11.0.0.1:51777"), small.host("12.0.0.1:51777", skew_us=-600 * SECOND_US)
    small.send(a, b.endpoint)
    small.run()
    [(_, source, now_us)] = got(b)
    assert source == a.endpoint
    assert listener(b).unix_us == START_UNIX_US + now_us - 600 * SECOND_US


# ---------------------------------------------------------------------------------- network


def test_delay_is_distance_access_and_jitter() -> None:
    small = Small(Conditions(jitter_us=4_000))
    a = small.host("11.0.0.1:51777", Site(0, 3_000, 0))
    b = small.host("12.0.0.1:51777", Site(4, 7_000, 0))
    small.send(a, b.endpoint, times=500)
    small.run()
    times = [now_us for _, _, now_us in got(b)]
    least = ONE_WAY_US[0][4] + 10_000
    assert len(times) == 500
    assert least <= min(times) < least + 100
    assert least + 3_900 < max(times) < least + 4_000


@pytest.mark.parametrize("ppm", [10_000, 250_000])
def test_loss_is_what_was_asked_for(ppm: int) -> None:
    small, sent = Small(Conditions(loss_ppm=ppm)), 40_000
    a, b = small.host("11.0.0.1:51777"), small.host("12.0.0.1:51777")
    small.send(a, b.endpoint, times=sent)
    small.run()
    lost = sent - len(got(b))
    assert small.world.network.counters["lost"] == lost
    assert abs(lost - sent * ppm / MILLION) < 5 * (sent * ppm / MILLION) ** 0.5


def test_copies_and_late_ones_are_as_many_as_asked_for() -> None:
    conditions = Conditions(duplicate_ppm=100_000, reorder_ppm=200_000, jitter_us=0)
    small, sent = Small(conditions), 10_000
    a, b = small.host("11.0.0.1:51777"), small.host("12.0.0.1:51777")
    for number in range(sent):
        small.send(a, b.endpoint, b"\xd0%d" % number)
    small.run()
    copies = len(got(b)) - sent
    assert abs(copies - sent / 10) < 150
    assert small.world.network.counters["duplicated"] == copies
    first_us = min(now_us for _, _, now_us in got(b))
    late = sum(now_us > first_us for _, _, now_us in got(b))
    assert abs(late - sent * 0.3) < 300
    assert max(now_us for _, _, now_us in got(b)) < first_us + 2 * LATE_US


def test_a_cut_separates_by_lot_and_heals() -> None:
    small = Small()
    lots = (100_000, 299_999, 300_000, 900_000)
    hosts = [small.host(f"11.0.{number}.1:51777", Site(0, 0, lot)) for number, lot in enumerate(lots)]
    small.world.network.cut_below = 300_000
    for host in hosts:
        for other in hosts:
            small.send(host, other.endpoint, b"\xd0%d" % host.index)
    small.run()
    heard = [sorted(int(datagram[1:]) for datagram, _, _ in got(host)) for host in hosts]
    assert heard == [[0, 1], [0, 1], [2, 3], [2, 3]]
    small.world.network.cut_below = 0
    small.send(hosts[0], hosts[3].endpoint, b"\xd0again")
    small.run()
    assert got(hosts[3])[-1][0] == b"\xd0again"


def test_a_nat_in_the_world_hides_lets_answers_in_and_refuses_strangers() -> None:
    small = Small()
    nat = Nat(Kind.PORT_RESTRICTED, bytes([21, 0, 0, 1]), 30 * SECOND_US)
    home = small.host("192.168.1.1:51777", Site(0, 0, 0, nat))
    server, stranger = small.host("11.0.0.1:51777"), small.host("12.0.0.1:51777")
    small.send(home, server.endpoint)
    small.run()
    [(_, seen, _)] = got(server)
    assert seen[:4] == nat.address
    small.send(server, seen, b"\xd0answer")
    small.send(stranger, seen, b"\xd0knock")
    small.run()
    assert [datagram for datagram, _, _ in got(home)] == [b"\xd0answer"]
    assert small.world.network.counters == {"not let in by a NAT": 1}
    small.run(30)
    small.send(server, seen, b"\xd0late")
    small.run()
    assert len(got(home)) == 1


@pytest.mark.parametrize("hairpin", [False, True])
def test_two_behind_one_nat_meet_by_its_address_where_it_hairpins(hairpin: bool) -> None:
    small = Small()
    site = Site(0, 0, 0, Nat(Kind.FULL_CONE, bytes([21, 0, 0, 1]), 30 * SECOND_US, hairpin=hairpin))
    home, desk = small.host("192.168.1.1:51777", site), small.host("192.168.1.2:51777", site)
    server = small.host("11.0.0.1:51777")
    small.send(desk, server.endpoint)
    small.run()
    [(_, seen, _)] = got(server)
    small.send(home, seen)
    small.run()
    assert len(got(desk)) == hairpin
    assert small.world.network.counters["no hairpin"] == (not hairpin)


def test_ipv6_goes_past_the_nat_and_only_between_those_who_have_it() -> None:
    small = Small()
    nat = Nat(Kind.SYMMETRIC, bytes([21, 0, 0, 1]), 30 * SECOND_US)
    home = small.host("192.168.1.1:51777", Site(0, 0, 0, nat), "[2a00:1::1]:51777")
    both, old = small.host("11.0.0.1:51777", endpoint6="[2a00:2::1]:51777"), small.host("12.0.0.1:51777")
    small.send(both, home.endpoint6)
    small.send(old, home.endpoint6)
    small.run()
    assert [source for _, source, _ in got(home)] == [both.endpoint6]


# ---------------------------------------------------------------------------------- chance and places


def test_chance_is_the_same_on_every_machine() -> None:
    """Fixed values: a change of them changes every course."""
    dice = Dice(7, "network")
    assert [dice.below(1000) for _ in range(5)] == [258, 534, 517, 195, 55]
    assert Entropy(7, 1)(8).hex() + Entropy(7, 2)(8).hex() == "0cca21fe70e313fd6af2a089c3980cd7"


def test_entropy_does_not_repeat_and_gives_any_size() -> None:
    entropy = Entropy(1, 1)
    drawn = [entropy(8) for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert len(entropy(0)) == 0
    assert len(entropy(1000)) == 1000


@given(st.integers(1, 2**40), st.integers(0, 1000))
def test_dice_keep_within_bounds(bound: int, seed: int) -> None:
    dice = Dice(seed, "bounds")
    assert 0 <= dice.below(bound) < bound
    assert 5 <= dice.between(5, 5 + bound) <= 5 + bound
    assert 0 <= dice.weighted([1, bound, 2]) < 3
    assert not dice.happens(0)
    assert dice.happens(MILLION)


def test_addresses_are_global_usable_once_and_in_many_networks() -> None:
    places = Places(Dice(3, "places"))
    found = [places.address() + PORT for _ in range(5_000)]
    assert len(set(found)) == 5_000
    assert all(usable(endpoint) and scope(endpoint) is Scope.GLOBAL for endpoint in found)
    networks = Counter(network(endpoint) for endpoint in found)
    assert 4_200 < len(networks) < 4_600
    sixes = [places.endpoint6() for _ in range(500)]
    assert all(usable(endpoint) and scope(endpoint) is Scope.GLOBAL for endpoint in sixes)
    assert len({network(endpoint) for endpoint in sixes}) == 500
    assert unpack(sixes[0])[1] == 51_777


def test_distances_are_those_of_the_internet() -> None:
    assert len(ONE_WAY_US) == len(REGIONS)
    assert all(ONE_WAY_US[here][there] == ONE_WAY_US[there][here] for here in range(8) for there in range(8))
    places = Places(Dice(3, "places"))
    ways = [
        ONE_WAY_US[places.region()][places.region()] + places.access_us() + places.access_us()
        for _ in range(2_000)
    ]
    assert min(ways) >= 7_500 + 2 * ACCESS_US[0]
    assert 60_000 < sum(ways) / len(ways) < 90_000
