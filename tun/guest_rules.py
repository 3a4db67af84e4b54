"""What machines that only a tunnel let in may send to this one: an nftables table, as text.

    from an address of a guest, on our TUN           input       forward
    in a connection that this machine began          accepted    dropped
    an ICMP error about a packet of ours             accepted    dropped
    a ping                                           accepted    dropped
    TCP or UDP to a port that is opened to guests    accepted    dropped
    anything else                                    dropped     dropped

What is accepted here may still be dropped by other tables; who is no guest is not looked at. A port that is
closed ends what guests began to it, as only replies pass by their connection. What guests begin is not
tracked: the kernel's list of connections, which all of this machine shares, is not theirs to fill. The table
is named after the device, so nodes that share a network namespace leave each other alone.

The text is for `nft -f` (nft(8)), which takes all of it or nothing: each change makes the table anew.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address

_TABLE: Final = """\
table inet {table} {{
    set guests4 {{ type ipv4_addr; {guests4}}}
    set guests6 {{ type ipv6_addr; {guests6}}}
    set ports {{ type inet_service; {ports}}}
    chain guest {{
        ct direction reply ct state established accept
        meta l4proto {{ icmp, icmpv6 }} ct state related accept
        icmp type echo-request accept
        icmpv6 type echo-request accept
        meta l4proto {{ tcp, udp }} th dport @ports accept
        drop
    }}
    chain input {{
        type filter hook input priority 0; policy accept;
        iifname "{device}" ip saddr @guests4 goto guest
        iifname "{device}" ip6 saddr @guests6 goto guest
    }}
    chain asked {{
        meta l4proto {{ tcp, udp }} th dport @ports notrack
        icmp type echo-request notrack
        icmpv6 type echo-request notrack
    }}
    chain prerouting {{
        type filter hook prerouting priority -300; policy accept;
        iifname "{device}" ip saddr @guests4 goto asked
        iifname "{device}" ip6 saddr @guests6 goto asked
    }}
    chain answered {{
        meta l4proto {{ tcp, udp }} th sport @ports notrack
        icmp type echo-reply notrack
        icmpv6 type echo-reply notrack
    }}
    chain output {{
        type filter hook output priority -300; policy accept;
        oifname "{device}" ip daddr @guests4 goto answered
        oifname "{device}" ip6 daddr @guests6 goto answered
    }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        iifname "{device}" ip saddr @guests4 drop
        iifname "{device}" ip6 saddr @guests6 drop
    }}
}}
"""
_HOOKED: Final = ("prerouting", "input", "forward", "output")  # chains, named as their hooks
_RULES: Final = {"guest": 6, "asked": 3, "answered": 3} | dict.fromkeys(_HOOKED, 2)


def table_of(device: str) -> str:
    """The table's name for a network device's ([A-Za-z0-9_.-]{1,15})."""
    return f"zeqnode_{device}"


def rules(device: str, guests: Collection[IPAddress], ports: Collection[int]) -> str:
    """The whole table, in place of the one that there may be."""
    return removal(table_of(device)) + _TABLE.format(
        table=table_of(device),
        device=device,
        guests4=_elements(sorted(each for each in guests if isinstance(each, IPv4Address))),
        guests6=_elements(sorted(each for each in guests if isinstance(each, IPv6Address))),
        ports=_elements(sorted(ports)),
    )


def removal(table: str) -> str:
    """Right also where there is no such table."""
    return f"add table inet {table}\ndelete table inet {table}\n"


def _elements(values: Iterable[object]) -> str:
    text = ", ".join(map(str, values))
    return f"elements = {{ {text} }} " if text else ""


def stand(listing: str, guests: Collection[IPAddress], ports: Collection[int]) -> bool:
    """Whether `nft -j list table` shows what `rules` asked for: the sets, and chains with their hooks and as
    many rules. How a rule is written down differs between versions of nft, so that is not compared."""
    hooks = dict(zip(_HOOKED, _HOOKED, strict=True))
    try:
        objects: list[dict[str, Any]] = json.loads(listing)["nftables"]
        sets = {each["set"]["name"]: each["set"].get("elem", []) for each in objects if "set" in each}
        chains = [each["chain"] for each in objects if "chain" in each]
        found = Counter(each["rule"]["chain"] for each in objects if "rule" in each)
        addresses = {ip_address(each) for name in ("guests4", "guests6") for each in sets[name]}
        return (
            found == _RULES
            and {each["name"]: each["hook"] for each in chains if "hook" in each} == hooks
            and addresses == set(guests)
            and set(sets["ports"]) == set(ports)
        )
    except (ValueError, KeyError, TypeError):
        return False
