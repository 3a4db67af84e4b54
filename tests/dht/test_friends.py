"""Whom attackers around us cannot choose: friends, those known before, and some from everywhere."""

from __future__ import annotations

from collections import Counter

from dht import contacts, locations
from dht.endpoints import Endpoint
from dht.friends import FRIENDS, Friends
from dht.link import RETRY_US, Link
from dht.links import EASY, INBOUND, Known
from dht.locations import Location, Locator
from dht.lookup import Lookup
from dht.messages import Ping, Pong, decode_dht
from dht.missing import HOLDERS, WAIT_US, Missing
from dht.questions import Questions
from dht.records import Kind
from dht.routing import ID_BITS, RoutingTable
from dht.signatures import Ed25519Signatures
from dht.upkeep import FIRST_RETRY_US, KNOWN, TRIES, Bootstrap
from tests.dht.overlay_world import SECOND, entropy
from tests.dht.test_discovery import Mesh, Node
from tests.dht.test_links import Side, at, full

FRIEND = at(900)


def besieged(known: dict[Endpoint, Known]) -> tuple[Side, list[Link]]:
    """All places are taken by strangers, and what is known of whom comes next."""
    side = Side()
    side.links._known = lambda endpoint: known.get(endpoint, Known.NOT)
    return side, full(side)


def test_a_friend_has_a_place_though_all_are_taken_by_those_who_gave_something() -> None:
    side, links = besieged({FRIEND: Known.FRIEND})
    for link in links:
        link.firsts = 1
        link.useful(0)
    assert side.dialled(at(901)) is None
    friend = side.dialled(FRIEND)
    assert friend is not None
    assert len(side.links.by_endpoint) == INBOUND
    assert friend.eager, "and need not prove itself first"
    assert side.links.tells_twice(friend)


def test_who_is_in_our_table_goes_before_who_only_announces() -> None:
    """An announcement costs nothing: who announces all and gives nothing keeps no place from one we know."""
    side, links = besieged({at(901): Known.TABLE, at(902): Known.TABLE})
    for link in links:
        link.useful(0)
    assert side.dialled(at(903)) is None
    listed = side.dialled(at(901))
    assert listed is not None
    assert not listed.eager
    for other in side.links.by_endpoint.values():
        other.firsts = 1
    assert side.dialled(at(902)) is None, "but from who gave something it takes none"


def test_a_friend_is_no_passenger_whatever_it_gives() -> None:
    side, links = besieged({FRIEND: Known.FRIEND})
    friend = side.dialled(FRIEND)
    assert friend is not None
    side.links.heard += 1000
    for link in links:
        link.useful(side.links.heard)
    side.links.tend(0)
    assert not side.links._idle(friend)
    assert FRIEND in side.links.by_endpoint


def test_only_friends_of_who_is_besieged_are_told_twice() -> None:
    side = Side()
    side.links._known = lambda _endpoint: Known.FRIEND
    link = side.dialled(FRIEND)
    assert link is not None
    assert not side.links.tells_twice(link)
    for number in range(EASY):
        side.dialled(at(number))
    assert all(each.eager for each in side.links.by_endpoint.values())


def test_friends_are_bounded_and_come_before_others() -> None:
    friends = Friends((), lambda count: [at(number) for number in range(count)], entropy("friends"))
    friends.add([FRIEND])
    assert friends.known(FRIEND) is Known.FRIEND
    assert friends.known(at(1)) is Known.NOT
    assert friends.candidates(4) == [FRIEND, at(0), at(1), at(2), at(3)]
    friends.add(at(1000 + number) for number in range(FRIENDS))
    assert friends.known(FRIEND) is Known.NOT, "the oldest gives way"
    assert len([one for one in friends.candidates(4) if one not in map(at, range(4))]) == 2


# ------------------------------------------------------------------ promises


def link(number: int, known: Known = Known.NOT) -> Link:
    made = Link(at(number), b"", b"", 0, outbound=False, bit=1 << number, mark=0)
    made.known = known
    return made


def test_who_gave_something_before_is_asked_before_those_who_announce_first() -> None:
    missing, name = Missing(), bytes(12)
    boasters = [link(number) for number in range(HOLDERS + 2)]
    giver, friend = link(20), link(21, Known.FRIEND)
    giver.kept = 1
    for each in (*boasters, giver, friend):
        missing.announced(name, each, 0)
    assert missing.due(WAIT_US) == [(friend, [name])]
    assert missing.due(WAIT_US + RETRY_US) == [(giver, [name])]


def test_who_is_being_asked_stays_among_the_holders() -> None:
    missing, name = Missing(), bytes(12)
    first = link(1)
    missing.announced(name, first, 0)
    assert missing.due(WAIT_US) == [(first, [name])]
    for number in range(2, HOLDERS + 6):
        missing.announced(name, link(number, Known.TABLE), 0)
    missing.came(name, first)
    assert (first.asked, first.kept) == (0, 1)


# ------------------------------------------------------------------ the overlay


def test_of_each_quarter_of_all_ids_one_is_asked_however_many_stand_close() -> None:
    """Twenty-one around us; an honest one, far away, that none of them would ever name."""
    table = RoutingTable(0, 0)
    near = [contacts.at(bytes([n & 7]) * 24, bytes([20, n >> 8, n & 255, 1, 0, 9])) for n in range(4000)]
    close = sorted(near, key=lambda one: one.long_id)[:21]
    far = next(one for one in near if one.long_id >> (ID_BITS - 2) == 2)
    for one in (*close, far):
        table.add_contact(one, 0)
    found = table.find_neighbors(0)
    assert far not in found
    assert far in table.spread(0)
    lookup = Lookup(0, found, paths=2, sure=table.spread(0))
    asked = set()
    while not lookup.done:
        for one in lookup.next():
            asked.add(one)
            lookup.answered(one, close)
    assert far in asked


def bootstrap() -> tuple[Bootstrap, Questions]:
    questions = Questions(entropy("bootstrap"), [], Counter())
    return Bootstrap(questions), questions


def test_who_was_named_is_asked_again_where_a_datagram_was_lost_though_others_are_known() -> None:
    start, questions = bootstrap()
    start.add([FRIEND], 0)
    for second in range(100):
        if start.due_us <= second * SECOND:
            start.run(alone=False, now_us=second * SECOND)
        questions.expire(second * SECOND)
    assert len(questions.outgoing) == TRIES == 3


def all_answer(questions: Questions) -> None:
    """Those that were pinged, in that order."""
    for datagram, to in questions.outgoing:
        ping = decode_dht(datagram[1:])
        assert isinstance(ping, Ping)
        pong = Pong(ping.t, bytes(24), to, bytes(8))
        question = questions.settle(pong, to, 1)
        assert question is not None
        question.asker.answered(question, pong, contacts.at(bytes(24), to), 1)


def test_the_first_that_answer_are_known_and_not_asked_again() -> None:
    start, questions = bootstrap()
    start.add([at(number) for number in range(KNOWN + 2)], 0)
    start.run(alone=False, now_us=0)
    all_answer(questions)
    assert [one.endpoint for one in start.known] == [at(number) for number in range(KNOWN)]
    questions.outgoing.clear()
    start.run(alone=False, now_us=2 * FIRST_RETRY_US)
    assert not questions.outgoing


def published(mesh: Mesh, node: Node, seen: Endpoint) -> Location:
    """What it says of where it is, once two others have agreed on where they see it."""
    node.core.overlays[0].believe(seen, mesh.now)
    [record] = node.core.presence._location(node.secret, 0, mesh.unix)
    unix = mesh.unix // SECOND
    day = locations.days_to_write(unix)[0]
    locator = Locator(Kind.LOCATION, node.keys.machine_id, node.secret, day)
    found = locations.open_all([record.raw], locator, node.keys.bundle.ed25519, Ed25519Signatures(), unix)
    assert found is not None
    return found


def test_two_liars_do_not_have_us_publish_an_address_that_is_not_ours() -> None:
    """Where we know a global address of ours, nobody tells us another; behind a NAT we have to believe."""
    mesh, false = Mesh(2, behind=1), at(77)
    public, hidden = mesh.nodes[1], mesh.nodes[-1]
    assert published(mesh, public, false).endpoints == (public.endpoint,)
    assert published(mesh, hidden, false).endpoints == (false, hidden.own)


def test_whom_the_owner_did_not_name_is_asked_and_nothing_more() -> None:
    """Of the local network: anybody there may say so, and fill the places of those that were named."""
    start, questions = bootstrap()
    start.add([at(number) for number in range(KNOWN)], 0, named=False)
    start.add([FRIEND], 0)
    start.run(alone=False, now_us=0)
    assert len(questions.outgoing) == KNOWN + 1
    all_answer(questions)
    assert [one.endpoint for one in start.known] == [FRIEND]
    mesh = Mesh(1)
    core = mesh.nodes[0].core
    core.bootstrap([at(1)], mesh.now, named=False)
    core.bootstrap([at(2)], mesh.now)
    core.bootstrap([at(2)], mesh.now, named=False)
    assert core._friends.known(at(1)) is not Known.FRIEND
    assert core._friends.known(at(2)) is Known.FRIEND
