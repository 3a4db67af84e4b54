"""Two hosts, a and b, and the wire between them: made anew for every contender in every round.

    a, device "wire" ═════ one veth pair ═════ device "wire", b        veth, nic, bare
    a, device "wire" ═ user-space link (simulations.lab) ═ "wire", b   home

What the devices do with trains of datagrams (simulations.lab.topology.Link has the same names):

    veth    a train crosses whole, as one skb
    nic     the sender's kernel cuts it to frames and the receiver's GRO joins them: a card without USO
    bare    frames only; the one where a loss of datagrams means what it says
    home    100 Mb/s, 10 ms each way and 0.5 % loss each way, the same link for everybody
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from simulations.bench.setting import SIDES, Setting, Side
from simulations.lab import reaper
from simulations.lab.lab import Lab
from simulations.lab.namespaces import GRACE, Namespace

DEVICE: Final = "wire"
MTU: Final = 1500  # bytes
ADDRESS: Final[dict[Side, str]] = {"a": "10.77.0.1", "b": "10.77.0.2"}
OTHER: Final[dict[Side, Side]] = {"a": "b", "b": "a"}
_OFFLOADS: Final = {
    "nic": "tso off gso on tx-udp-segmentation off gro on",
    "bare": "tso off gso off tx-udp-segmentation off gro off",
}
_HOME: Final = f"""
[hosts.a]
[hosts.b]
[links.{DEVICE}]
ends = ["a", "b"]
subnet = "10.77.0.0/24"
addresses = {{ a = "{ADDRESS["a"]}", b = "{ADDRESS["b"]}" }}
rate = "100mbit"
delay_ms = 10
loss = 0.005
"""
_INDEX: Final = 1000  # of the two devices; where both have one index the kernel is slow to see the carrier
_CARRIER: Final = 10.0  # s
_PARTS: Final = 1_000_000  # a probability is a whole number of these for nft


@dataclass(frozen=True)
class Pair:
    """Both hosts, up, with an IPv4 address each."""

    a: Namespace
    b: Namespace

    def __getitem__(self, side: Side) -> Namespace:
        return self.a if side == "a" else self.b


@contextmanager
def wired(setting: Setting) -> Iterator[Pair]:
    """Whatever runs in the hosts ends with the block. Raises LabError."""
    if setting.wire == "home":
        with Lab.from_toml(_HOME) as lab:
            yield Pair(lab.host("a"), lab.host("b"))
        return
    marker = reaper.new_marker()
    pair = Pair(*(Namespace(side, {reaper.VARIABLE: marker, reaper.PLACE: side}) for side in SIDES))
    hosts = [pair.a, pair.b]
    watchman = None
    try:
        for host in hosts:
            host.create()
        watchman = reaper.start(marker, [host.fd for host in hosts])
        _join(pair)
        for side in SIDES:
            _configure(pair[side], side, setting)
        for host in hosts:
            host.wait_until_running([DEVICE], time.monotonic() + _CARRIER)
        yield pair
    finally:
        for host in hosts:
            host.terminate()
        deadline = time.monotonic() + GRACE
        for host in hosts:
            host.collect(deadline)
        for host in hosts:
            host.close()
        if watchman is not None:
            with watchman:  # closes its pipe, which is its signal, and waits for it
                pass


def _join(pair: Pair) -> None:
    peer = f"peer name {DEVICE} index {_INDEX + 1} mtu {MTU} netns /proc/self/fd/{pair.b.fd}"
    pair.a.run(
        ["ip", "-batch", "-"],
        input=f"link add index {_INDEX} name {DEVICE} mtu {MTU} type veth {peer}",
        pass_fds=[pair.b.fd],
    )


def _configure(host: Namespace, side: Side, setting: Setting) -> None:
    host.sysctl("ipv6/conf/default/accept_dad", 0)
    host.sysctl("ipv6/conf/all/accept_dad", 0)
    host.sysctl("ipv4/conf/all/rp_filter", 0)
    if features := _OFFLOADS.get(setting.wire):
        host.run(["ethtool", "-K", DEVICE, *features.split()])
    if setting.loss:
        host.run(["nft", "-f", "-"], input=_loss(setting.loss))
    host.run(
        ["ip", "-batch", "-"],
        input=f"link set dev lo up\naddress add {ADDRESS[side]}/24 dev {DEVICE}\nlink set dev {DEVICE} up\n",
    )


def _loss(loss: float) -> str:
    """At the input hook, where the wiring `bare` has single datagrams; pings through `plain` are spared."""
    chance = f"numgen random mod {_PARTS} < {round(loss * _PARTS)}"
    rule = f'iifname "{DEVICE}" meta l4proto {{ tcp, udp }} {chance} counter drop'
    return f"table inet bench {{\n chain loss {{\n  type filter hook input priority 0;\n  {rule}\n }}\n}}\n"
