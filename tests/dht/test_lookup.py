"""The lookup machine: against a slow, obvious model, and against liars."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dht import contacts
from dht.contacts import Contact
from dht.lookup import ALPHA, ALPHA_MOST, ASKED_MOST, CANDIDATES, NAMED_MOST, OF_A_NETWORK, Lookup

TARGET = int.from_bytes(bytes(32), "big")


def contact(number: int, network: int | None = None, host: int = 1) -> Contact:
    address = (number if network is None else network) + (11 << 16)
    return contacts.at(Random(number).randbytes(24), address.to_bytes(3, "big") + bytes([host]) + b"\xca\x41")


class Mesh:
    """Who knows whom. A slow, obvious lookup beside the machine's."""

    def __init__(self, seed: int, count: int, dead: int, same_networks: bool) -> None:
        draw = Random(seed)
        networks = count // 3 + 1
        self.nodes = [
            contact(number, draw.randrange(networks) if same_networks else None, host=1 + number % 250)
            for number in range(count)
        ]
        self.dead = set(draw.sample(self.nodes, dead))
        self.knows: dict[Contact, list[Contact]] = {}
        for node in self.nodes:
            near = sorted(self.nodes, key=lambda other: other.long_id ^ node.long_id)[1:12]
            self.knows[node] = near + draw.sample(self.nodes, min(6, count))

    def named(self, node: Contact, target: int) -> list[Contact]:
        return sorted(self.knows[node], key=lambda other: other.long_id ^ target)[:NAMED_MOST]


def model(mesh: Mesh, start: list[Contact], target: int, k: int) -> list[Contact]:
    """One question after the other, everything sorted anew each time, nothing ever forgotten."""
    known, answered, failed = set(start), set[Contact](), set[Contact]()
    while True:
        view: list[Contact] = []
        for node in sorted(known, key=lambda other: other.long_id ^ target):
            if node not in failed and node.network not in {other.network for other in view}:
                view.append(node)
        view = view[:k]
        ask = next((node for node in view if node not in answered), None)
        if ask is None:
            return view
        if ask in mesh.dead:
            failed.add(ask)
        else:
            answered.add(ask)
            known.update(mesh.named(ask, target))


def run(mesh: Mesh, lookup: Lookup, order: Random, target: int) -> list[Contact]:
    """Answers in any order; whom it asked."""
    asked: list[Contact] = []
    under_way: list[Contact] = []
    while True:
        fresh = lookup.next()
        asked += fresh
        under_way += fresh
        if lookup.done:
            break
        assert under_way, "it waits for nobody"
        node = under_way.pop(order.randrange(len(under_way)))
        if node in mesh.dead:
            lookup.failed(node)
        else:
            lookup.answered(node, mesh.named(node, target))
    return asked


meshes = st.builds(
    Mesh,
    st.integers(0, 2**32),
    st.integers(12, 60),
    dead=st.integers(0, 10),
    same_networks=st.just(False),
)


@given(meshes, st.integers(0, 2**256 - 1), st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 6))
def test_it_finds_what_the_obvious_lookup_finds(
    mesh: Mesh, target: int, seed: int, k: int, start: int
) -> None:
    """Where nobody shares a network and nothing has to be forgotten. Whatever the order, the last view is
    closed: all in it have answered, and named nobody closer."""
    first = mesh.nodes[:start]
    lookup = Lookup(target, first, k)
    asked = run(mesh, lookup, Random(seed), target)
    closest = lookup.closest()
    assert len(asked) == len(set(asked))
    assert closest == sorted(closest, key=lambda one: one.long_id ^ target)
    assert not set(closest) & mesh.dead
    for one in closest:
        for other in mesh.named(one, target):
            closer = len(closest) < k or other.long_id ^ target < closest[-1].long_id ^ target
            assert not closer or other in closest or other in mesh.dead
    expected = model(mesh, first, target, k)
    if set(expected) != set(closest):
        assert len(closest) == len(expected) == k, "another closed view; both are full"


@given(st.integers(0, 2**32), st.integers(12, 60), st.integers(0, 2**256 - 1), st.integers(1, 20))
def test_no_two_of_the_closest_share_a_network(seed: int, count: int, target: int, k: int) -> None:
    mesh = Mesh(seed, count, 3, same_networks=True)
    lookup = Lookup(target, mesh.nodes[:5], k)
    run(mesh, lookup, Random(seed), target)
    networks = [one.network for one in lookup.closest()]
    assert len(networks) == len(set(networks)) <= k


@given(meshes, st.integers(0, 2**256 - 1), st.integers(0, 2**32))
def test_on_two_paths_nobody_is_asked_twice_and_the_closest_are_found(
    mesh: Mesh, target: int, seed: int
) -> None:
    lookup = Lookup(target, mesh.nodes[:6], paths=2)
    asked = run(mesh, lookup, Random(seed), target)
    assert len(asked) == len(set(asked)) == len({one.endpoint for one in asked})
    assert set(lookup.closest()) <= set(asked) - mesh.dead
    living = [one for one in asked if one not in mesh.dead]
    assert len(living) >= lookup.messages - len(asked) >= len(lookup.closest())


def test_a_liar_on_one_path_does_not_lead_the_other_astray() -> None:
    """It names only its own; the other path still asks the honest closest it knows of."""
    draw = Random(1)
    honest = [contact(number) for number in range(40)]
    liars = [contact(number) for number in range(1000, 1040)]
    liars.sort(key=lambda one: one.long_id)
    first = sorted([liars[-1], *honest[:3]], key=lambda one: one.long_id)
    lookup = Lookup(TARGET, first, paths=2)
    asked: list[Contact] = []
    while not lookup.done:
        for one in lookup.next():
            asked.append(one)
            lookup.answered(one, liars[:20] if one in liars else draw.sample(honest, 20))
    assert len([one for one in honest if one in asked]) >= 10


# ------------------------------------------------------------------ how many at once


def test_three_at_a_time_and_more_when_nobody_answers() -> None:
    lookup = Lookup(TARGET, [contact(number) for number in range(20)])
    first = lookup.next()
    assert len(first) == ALPHA == 3
    assert lookup.next() == []
    lookup.failed(first[0])
    second = lookup.next()
    assert len(second) == 2, "its own place, and one more"
    for one in [*first[1:], *second]:
        lookup.failed(one)
    assert len(lookup.next()) == ALPHA_MOST
    lookup = Lookup(TARGET, [contact(number) for number in range(20)])
    one, two, _ = lookup.next()
    lookup.failed(one)
    lookup.next()
    lookup.answered(two, [])
    assert lookup.next() == [], "back to three: four were under way"


def test_with_nobody_to_begin_with_it_is_done_and_can_begin_later() -> None:
    lookup = Lookup(TARGET, [])
    assert lookup.next() == []
    assert lookup.done
    assert lookup.closest() == []


@given(st.integers(1, 4))
def test_when_all_fail_it_is_done(paths: int) -> None:
    lookup = Lookup(TARGET, [contact(number) for number in range(9)], paths=paths)
    while asked := lookup.next():
        for one in asked:
            lookup.failed(one)
    assert lookup.done
    assert lookup.closest() == []


def test_depth_is_how_many_nodes_led_there() -> None:
    chain = sorted((contact(number) for number in range(9)), key=lambda one: -one.long_id)
    lookup = Lookup(TARGET, chain[:1])
    for place, one in enumerate(chain):
        assert lookup.next() == [one]
        assert lookup.depth(one) == place + 1
        lookup.answered(one, chain[place + 1 : place + 2])
    assert lookup.next() == []
    assert lookup.closest() == chain[::-1]


# ------------------------------------------------------------------ attacks


def test_of_thousands_that_are_named_twenty_are_looked_at() -> None:
    lookup = Lookup(TARGET, [contact(0)])
    lookup.answered(lookup.next()[0], [contact(number) for number in range(1, 5000)])
    asked = []
    while fresh := lookup.next():
        asked += fresh
        for one in fresh:
            lookup.answered(one, [])
    assert len(asked) <= NAMED_MOST


def test_who_names_itself_or_us_or_one_endpoint_many_times_gains_nothing() -> None:
    one, us = contact(0), contact(99)
    alike = [contacts.at(Random(n).randbytes(24), contact(5).endpoint) for n in range(20)]
    lookup = Lookup(TARGET, [one], avoid=[us.endpoint])
    lookup.answered(lookup.next()[0], [one, us, contacts.at(bytes(24), one.endpoint), *alike[:17]])
    assert lookup.next() == alike[:1]
    assert lookup.next() == []


def test_a_network_has_three_candidates_and_one_is_asked_until_it_fails() -> None:
    alike = [contact(number, network=7, host=number + 1) for number in range(15)]
    lookup = Lookup(TARGET, [contact(100)])
    lookup.answered(lookup.next()[0], alike)
    asked = []
    while fresh := lookup.next():
        assert len(fresh) == 1
        asked += fresh
        lookup.failed(fresh[0])
    assert len(asked) == OF_A_NETWORK


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_one_that_always_names_closer_ones_is_followed_only_so_far(seed: int) -> None:
    """An endless ladder of accomplices in as many networks as it takes."""
    ladder = sorted((contact(seed % 2**20 + number) for number in range(2000)), key=lambda one: -one.long_id)
    lookup = Lookup(TARGET, ladder[:3])
    place, asked = 3, 0
    while not lookup.done:
        for one in lookup.next():
            asked += 1
            lookup.answered(one, ladder[place : place + 2])
            place += 2
    assert asked <= ASKED_MOST + ALPHA_MOST


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400)), max_size=150), st.integers(1, 2))
def test_nonsense_changes_nothing_that_matters(steps: list[tuple[int, int]], paths: int) -> None:
    """Answers of who was not asked, failures twice, names of everybody."""
    lookup = Lookup(TARGET, [contact(number) for number in range(5)], paths=paths)
    asked: list[Contact] = []
    for what, number in steps:
        if what == 0:
            asked += lookup.next()
        elif what == 1:
            lookup.answered(contact(number), [contact(n % 400) for n in range(number, number + 30)])
        elif what == 2:
            lookup.failed(contact(number))
        elif asked:
            one = asked[number % len(asked)]
            lookup.answered(one, [contact(n * 7 % 400) for n in range(number, number + 25)])
        for path in lookup._paths:
            assert path.order == sorted(set(path.order))
            assert len(path.order) <= CANDIDATES
            assert 0 <= path.under_way <= len(asked)
    assert len(asked) == len(set(asked))
    counts = dict[bytes, int]()
    for path in lookup._paths:
        for distance in path.order:
            network = lookup._known[distance].contact.network
            counts[network] = counts.get(network, 0) + 1
    assert {network: count for network, count in lookup._networks.items() if count} == counts
