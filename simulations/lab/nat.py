"""A NAT as home routers are: IPv4 masqueraded, IPv6 routed, both closed to what was not asked for.

cone: the outside port is the inside's where it is free, whatever the destination (Linux' masquerade).
symmetric: a random port for each destination. Both let in only answers from the very address and port that
was written to. What comes to the NAT's own address unasked is dropped, not refused: a refusal would leave a
conntrack entry on that port, and the inside's next packet from it would be moved to another one, which breaks
hole punching.
"""

from simulations.lab.namespaces import Namespace
from simulations.lab.topology import Nat


def rules(nat: Nat) -> str:
    """Input for `nft -f -`."""
    translate = "masquerade fully-random" if nat.kind == "symmetric" else "masquerade"
    unasked = "ct state { new, invalid, untracked }"
    return f"""
table inet lab {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        oifname "{nat.outside}" meta nfproto ipv4 {translate};
    }}
    chain input {{
        type filter hook input priority filter;
        iifname "{nat.outside}" meta l4proto {{ tcp, udp }} {unasked} counter drop;
    }}
    chain forward {{
        type filter hook forward priority filter;
        iifname "{nat.outside}" {unasked} counter drop;
    }}
}}
"""


def configure(nat: Nat, space: Namespace) -> None:
    """Rules first: on a machine where conntrack is a module they load it, and only then are there sysctls of
    it."""
    space.run(["nft", "-f", "-"], input=rules(nat))
    for key in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
        space.sysctl(f"netfilter/{key}", nat.udp_timeout)
