"""The filter for guests as text, and how what nft lists is read."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tun.guest_rules import removal, rules, stand, table_of

GUESTS = frozenset(map(ip_address, ("198.18.0.9", "198.18.0.5", "fd5a::2")))
TEXT = """\
add table inet zeqnode_zeq0
delete table inet zeqnode_zeq0
table inet zeqnode_zeq0 {
    set guests4 { type ipv4_addr; elements = { 198.18.0.5, 198.18.0.9 } }
    set guests6 { type ipv6_addr; elements = { fd5a::2 } }
    set ports { type inet_service; elements = { 53, 8000 } }
    chain guest {
        ct direction reply ct state established accept
        meta l4proto { icmp, icmpv6 } ct state related accept
        icmp type echo-request accept
        icmpv6 type echo-request accept
        meta l4proto { tcp, udp } th dport @ports accept
        drop
    }
    chain input {
        type filter hook input priority 0; policy accept;
        iifname "zeq0" ip saddr @guests4 goto guest
        iifname "zeq0" ip6 saddr @guests6 goto guest
    }
    chain asked {
        meta l4proto { tcp, udp } th dport @ports notrack
        icmp type echo-request notrack
        icmpv6 type echo-request notrack
    }
    chain prerouting {
        type filter hook prerouting priority -300; policy accept;
        iifname "zeq0" ip saddr @guests4 goto asked
        iifname "zeq0" ip6 saddr @guests6 goto asked
    }
    chain answered {
        meta l4proto { tcp, udp } th sport @ports notrack
        icmp type echo-reply notrack
        icmpv6 type echo-reply notrack
    }
    chain output {
        type filter hook output priority -300; policy accept;
        oifname "zeq0" ip daddr @guests4 goto answered
        oifname "zeq0" ip6 daddr @guests6 goto answered
    }
    chain forward {
        type filter hook forward priority 0; policy accept;
        iifname "zeq0" ip saddr @guests4 drop
        iifname "zeq0" ip6 saddr @guests6 drop
    }
}
"""


def listing() -> list[dict[str, Any]]:
    """What nft 1.0.6 lists for TEXT, without the rules' expressions."""
    sets = {"guests4": ["198.18.0.5", "198.18.0.9"], "guests6": ["fd5a::2"], "ports": [53, 8000]}
    hooks = ("prerouting", "input", "forward", "output")
    chains: dict[str, Any] = {"guest": {}, "asked": {}, "answered": {}}
    chains |= {each: {"hook": each} for each in hooks}
    counts = {"guest": 6, "asked": 3, "answered": 3, **dict.fromkeys(hooks, 2)}
    return [
        {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "zeqnode_zeq0", "handle": 5}},
        *({"set": {"name": name, "type": "x", "elem": elements}} for name, elements in sets.items()),
        *({"chain": {"name": name, **more}} for name, more in chains.items()),
        *({"rule": {"chain": name, "expr": []}} for name, count in counts.items() for _ in range(count)),
    ]


def stands(objects: object) -> bool:
    return stand(json.dumps({"nftables": objects}), GUESTS, {53, 8000})


def test_the_text_of_the_table() -> None:
    assert rules("zeq0", GUESTS, (8000, 53)) == TEXT
    assert removal(table_of("zeq0")) == "".join(TEXT.splitlines(keepends=True)[:2])


def test_sets_without_elements_are_empty() -> None:
    text = rules("a.b-c", (), ())
    assert "set guests4 { type ipv4_addr; }" in text
    assert "set ports { type inet_service; }" in text
    assert text.startswith("add table inet zeqnode_a.b-c\n")


def test_what_was_asked_for_stands() -> None:
    assert stands(listing())
    empty = listing()
    for each in empty:
        if "set" in each:
            del each["set"]["elem"]
    assert stand(json.dumps({"nftables": empty}), (), ())
    assert not stands(empty)


@pytest.mark.parametrize("index", range(2, len(listing())))
def test_where_anything_is_missing_it_does_not_stand(index: int) -> None:
    objects = listing()
    gone = objects.pop(index)
    called = "chain" in gone and "hook" not in gone["chain"]  # cannot be gone without its rules
    assert stands(objects) is called


def test_an_element_more_or_less_does_not_stand() -> None:
    assert not stand(json.dumps({"nftables": listing()}), GUESTS, {53})
    assert not stand(json.dumps({"nftables": listing()}), GUESTS | {ip_address("fd5a::3")}, {53, 8000})
    unhooked = listing()
    next(each for each in unhooked if each.get("chain", {}).get("hook"))["chain"]["hook"] = "ingress"
    assert not stands(unhooked)


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_nonsense_does_not_stand(text: str) -> None:
    assert not stand(text, GUESTS, ())


@given(st.recursive(st.none() | st.text(), lambda each: st.dictionaries(st.text(max_size=5), each)))
def test_objects_of_another_shape_do_not_stand(value: object) -> None:
    assert not stands(value)
    assert not stands([{"set": value}, {"chain": value}, {"rule": value}])
