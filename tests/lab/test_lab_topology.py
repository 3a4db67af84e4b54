"""The TOML of a laboratory: what it means, and what it says to a mistake."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.lab.cli import WORLDS
from simulations.lab.errors import TopologyError
from simulations.lab.routes import Route, routes
from simulations.lab.topology import load, parse

LINK = '[links.wire]\nends = ["home", "cafe"]\n'
TWO = f'[hosts.home]\n[hosts.cafe]\n{LINK}subnet = "10.80.0.0/24"\n'


def test_addresses_are_given_in_order_and_explicitly() -> None:
    text = (
        TWO.replace('"cafe"]', '"cafe", "hut"]')
        + 'subnet6 = "fd80::/64"\naddresses = { cafe = "10.80.0.1" }\n'
    )
    (link,) = parse("[hosts.hut]\n" + text, "file").links
    assert [[str(interface) for interface in end.interfaces] for end in link.ends] == [
        ["10.80.0.2/24", "fd80::1/64"],
        ["10.80.0.1/24", "fd80::2/64"],
        ["10.80.0.3/24", "fd80::3/64"],
    ]


@given(st.integers(24, 29), st.integers(2, 6), st.data())
def test_addresses_are_distinct_and_inside(length: int, count: int, data: st.DataObject) -> None:
    names = [f"h{number}" for number in range(count)]
    subnet = ip_network(f"10.9.8.0/{length}")
    some = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from(list(subnet.hosts()))))
    explicit = {name: address for name, address in some.items() if list(some.values()).count(address) == 1}
    inline = ", ".join(f'{name} = "{address}"' for name, address in explicit.items())
    hosts = "".join(f"[hosts.{name}]\n" for name in names)
    text = f'{hosts}[links.l]\nends = {names}\nsubnet = "{subnet}"\naddresses = {{ {inline} }}\n'
    (link,) = parse(text, "file").links
    chosen = {end.node: end.interfaces[0].ip for end in link.ends}
    assert len(set(chosen.values())) == count
    assert all(address in subnet for address in chosen.values())
    assert all(chosen[name] == address for name, address in explicit.items())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[hosts", "is not valid TOML"),
        ("[host.home]\n", "unknown key 'host'; it knows hosts, routers, nats, links"),
        ("[hosts.home]\nrate = 1\n", "[hosts.home]: unknown key 'rate'; it takes no keys"),
        ("[hosts]\nhome = 1\n", "write [hosts.home]"),
        ("[hosts.Home]\n", "a name has 1 to 14 of a-z"),
        ("[hosts.lo]\n", "is none of all, default, lo"),
        ("[hosts.a]\n[routers.a]\n", "a is the name of two nodes"),
        (TWO + "los = 0.1\n", "[links.wire]: unknown key 'los'; it knows ends, subnet"),
        (TWO + "loss = 2\n", "loss is a probability"),
        (TWO + "loss = true\n", "loss must be a number, not True"),
        (TWO + 'loss = "1%"\n', "loss must be a number, not '1%'"),
        (TWO + 'rate = "fast"\n', 'rate is written like "15mbit"'),
        (TWO + 'rate = "1kbit"\n', 'at least "8kbit"'),
        (TWO + "jitter_ms = 5\n", "jitter_ms lies between 0 and delay_ms"),
        (TWO + "reorder = 0.5\n", "set delay_ms above 0 too"),
        (TWO + "delay_ms = -1\n", "delay_ms is in milliseconds"),
        (TWO + "mtu = 500\n", "mtu must lie between 576 and 65535"),
        (TWO + 'mtu = 1000\nsubnet6 = "fd80::/64"\n', "mtu must lie between 1280 and 65535"),
        (TWO + 'offload = "usb"\n', "offload must be one of veth, nic, bare"),
        (TWO + 'offload = "nic"\nloss = 0.1\n', 'set it to "bare"'),
        (TWO + 'addresses = { hut = "10.80.0.7" }\n', "'hut' is not one of the link's ends"),
        (TWO + 'addresses = { home = "10.81.0.7" }\n', "must lie in 10.80.0.0/24"),
        (TWO + 'addresses = { home = "10.80.0.7", cafe = "10.80.0.7" }\n', "be given once"),
        (TWO + 'addresses = { home = "x" }\n', "[links.wire]: the address of home: "),
        ("[hosts.home]\n[hosts.cafe]\n" + LINK, "give it a subnet"),
        ("[hosts.home]\n[hosts.cafe]\n" + LINK + 'subnet = "10.80.0.1/24"\n', "has host bits set"),
        ("[hosts.home]\n" + LINK, "there is no host, router or NAT called 'cafe'"),
        ('[hosts.home]\n[links.wire]\nends = ["home"]\n', "two or more nodes, each once"),
        ('[hosts.home]\n[links.wire]\nends = ["home", "home"]\n', "two or more nodes, each once"),
        ('[nats.n]\nkind = "full"\n', "kind must be one of cone, symmetric"),
        ("[nats.n]\n", "inside and outside must name the two links"),
        ('[nats.n]\ninside = "a"\noutside = "b"\nudp_timeout = 0\n', "at least 1 second"),
        ('[nats.n]\ninside = "a"\noutside = "b"\n', "it is an end of none"),
        (
            TWO.replace("/24", "/31").replace('"cafe"]', '"cafe", "c"]') + "[hosts.c]\n",
            "take a larger subnet",
        ),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(text: str, sentence: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse(text, "house.toml")
    assert str(caught.value).startswith("house.toml")
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_file_is_read_and_a_text_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "two.toml"
    path.write_text(TWO)
    assert load(path).links == load(str(path)).links == load(TWO).links
    with pytest.raises(TopologyError, match=r"gone\.toml cannot be read"):
        load(tmp_path / "gone.toml")
    path.write_bytes(b"\xff")
    with pytest.raises(TopologyError, match="save it as UTF-8"):
        load(path)


@pytest.mark.parametrize("world", sorted(WORLDS.glob("*.toml")), ids=lambda path: str(path.stem))
def test_the_worlds_that_come_along_are_valid(world: Path) -> None:
    assert load(world).links


def test_routes_lead_out_of_a_nat_and_never_into_it() -> None:
    topology = load(WORLDS / "nat.toml")
    found = {node.name: routes(topology, node, 4) for node in topology.nodes}
    assert found["home"] == (Route("default", "192.168.1.1", "home-lan"),)
    assert found["server"] == (Route("default", "192.0.2.1", "datacentre"),)
    assert found["internet"] == ()
    assert found["home-nat"] == (
        Route("203.0.113.0/24", "198.51.100.1", "home-line"),
        Route("192.0.2.0/24", "198.51.100.1", "home-line"),
    )


def test_ipv6_is_routed_through_a_nat_in_both_directions() -> None:
    topology = parse(
        "[hosts.a]\n[hosts.b]\n"
        '[nats.n]\ninside = "lan"\noutside = "net"\n'
        '[links.lan]\nends = ["n", "a"]\nsubnet = "10.1.0.0/24"\nsubnet6 = "fd01::/64"\n'
        '[links.net]\nends = ["n", "b"]\nsubnet = "10.2.0.0/24"\nsubnet6 = "fd02::/64"\n',
        "file",
    )
    a, b, _ = topology.nodes
    assert routes(topology, a, 6) == (Route("default", "fd01::1", "lan"),)
    assert routes(topology, b, 6) == (Route("default", "fd02::1", "net"),)
    assert routes(topology, b, 4) == ()


def test_a_host_on_two_networks_has_routes_past_its_default() -> None:
    links = {"l1": ("a", "r1"), "l2": ("a", "r2"), "l3": ("r1", "b"), "l4": ("r2", "c")}
    text = "[hosts.a]\n[hosts.b]\n[hosts.c]\n[routers.r1]\n[routers.r2]\n" + "".join(
        f'[links.{name}]\nends = ["{one}", "{two}"]\nsubnet = "10.{number}.0.0/24"\n'
        for number, (name, (one, two)) in enumerate(links.items(), 1)
    )
    topology = parse(text, "file")
    assert routes(topology, topology.node("a"), 4) == (
        Route("default", "10.1.0.2", "l1"),
        Route("10.4.0.0/24", "10.2.0.2", "l2"),
    )
    assert routes(topology, topology.node("r1"), 4) == ()
