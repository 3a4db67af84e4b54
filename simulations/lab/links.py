"""A link: a namespace of its own with one port for each end, joined by a bridge or by the user-space link.

    home ns                    link's ns                     cafe ns
    device "wire" ═veth═ port "home" ─ bridge ─ port "cafe" ═veth═ device "wire"

All that impairs stands here in the middle, so the hosts' namespaces stay as a host's are: without queues,
rules or tables of ours. rate: a tbf queue on each port, toward the end. loss, duplicate: nft at each port's
ingress. delay and reordering: the user-space link in the bridge's place, which then does loss and duplication
too (packet sockets see frames before nft does).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Unpack

from simulations.lab import reaper
from simulations.lab.errors import LabError
from simulations.lab.impairment import Changes, Impairment
from simulations.lab.namespaces import Namespace
from simulations.lab.topology import Link, check_offload

BRIDGE = "lab.bridge"  # no node can be called so
_PARTS = 1_000_000  # a probability is a whole number of these for nft
_INDEX = 1000  # of the first port: past any that a host's devices get
_QUEUE_MS = 50  # how long a frame may wait for the rate
_OFFLOADS = {
    "veth": "tx on tso on gso on tx-udp-segmentation on gro off",  # veth's defaults
    "nic": "tx on tso off gso on tx-udp-segmentation off gro on",
    "bare": "tx on tso off gso off tx-udp-segmentation off gro off",
}


@dataclass(frozen=True, slots=True)
class Counters:
    """Frames, all directions together, since the impairment was last set. reordered: let past others."""

    dropped: int
    duplicated: int
    reordered: int


class LiveLink(Namespace):
    """`run` and `popen` act in the middle of the wire: the place for a capture."""

    def __init__(self, spec: Link, marker: Mapping[str, str]) -> None:
        super().__init__(spec.name, marker)
        self.spec = spec
        self.impairment = spec.impairment
        self._ends: list[Namespace] = []
        self._userlink: subprocess.Popen[bytes] | None = None
        self._base = Counters(0, 0, 0)

    def interface(self, node: str) -> str:
        """The port toward that node, in this namespace; all that the node sends and receives here passes
        it."""
        if node not in (end.node for end in self.spec.ends):
            raise LabError(f"{node} is not an end of the link {self.name}.")
        return node

    def build(self, ends: Mapping[str, Namespace]) -> None:
        """Make the devices, those in the ends' namespaces too (by the link's name, still down)."""
        self._ends = [ends[end.node] for end in self.spec.ends]
        self.sysctl("ipv6/conf/default/disable_ipv6", 1)  # nothing of this namespace speaks on the wire
        batch = [f"link add name {BRIDGE} mtu {self.spec.mtu} type bridge stp_state 0 mcast_snooping 0"]
        batch.append(f"link set dev {BRIDGE} up")
        for number, (end, space) in enumerate(zip(self.spec.ends, self._ends, strict=True)):
            peer = f"peer name {self.name} mtu {self.spec.mtu} netns /proc/self/fd/{space.fd}"
            # Where both devices of a pair have one index, the kernel takes them for devices without a peer
            # and may let a second pass before it looks at the carrier.
            batch.append(
                f"link add index {_INDEX + number} name {end.node} mtu {self.spec.mtu} type veth {peer}"
            )
            batch.append(f"link set dev {end.node} master {BRIDGE} up")
        fds = [space.fd for space in self._ends]
        self.run(["ip", "-batch", "-"], input="\n".join(batch), pass_fds=fds)
        self._apply()

    def set(self, **changes: Unpack[Changes]) -> None:
        """Change the impairment of the running link; what is not named stays. rate=None lifts the limit.

        A delay, once set, leaves the user-space link in place for good. Raises TopologyError."""
        impairment = replace(self.impairment, **changes)
        check_offload(self.spec, impairment)
        self.impairment = impairment
        self._apply()

    def capture(self, node: str, file: str | os.PathLike[str]) -> subprocess.Popen[bytes]:
        """Record what passes the port toward that node, both ways, to a pcap file, from now until SIGTERM.

        A frame that is lost in the link passes only the port that it came in by. Works in a user namespace,
        where tcpdump does not."""
        argv = [sys.executable, "-m", "simulations.lab.capture", self.interface(node), file]
        process = self.start(argv, stdout=subprocess.PIPE, stderr=2, env=reaper.python_environment())
        assert process.stdout is not None
        with process.stdout:
            if not process.stdout.readline():
                raise LabError(f"Recording {self.name} to {os.fspath(file)} failed: see the message above.")
        return process

    def counters(self) -> Counters:
        if self._userlink is not None:
            seen = self._ask({})
            return Counters(*(seen[key] - was for key, was in asdict(self._base).items()))
        listing = json.loads(self.run(["nft", "-j", "list", "tables"]).stdout)
        if not any("table" in entry for entry in listing["nftables"]):
            return Counters(0, 0, 0)
        rules = json.loads(self.run(["nft", "-j", "list", "table", "netdev", "lab"]).stdout)["nftables"]
        counted = {"drop": 0, "dup": 0}
        for entry in rules:
            parts = entry.get("rule", {}).get("expr", [])
            packets = sum(part["counter"]["packets"] for part in parts if "counter" in part)
            counted["drop" if any("drop" in part for part in parts) else "dup"] += packets
        return Counters(counted["drop"], counted["dup"], 0)

    def close(self) -> None:
        if self._userlink is not None:
            for pipe in (self._userlink.stdin, self._userlink.stdout):
                if pipe is not None:
                    pipe.close()
        super().close()

    def _apply(self) -> None:
        self._set_offload()
        self._set_rate()
        if self.impairment.holds_frames or self._userlink is not None:
            self._set_userlink()
        else:
            self.run(["nft", "-f", "-"], input=self._rules())

    def _set_offload(self) -> None:
        offload = self.spec.offload or ("bare" if self.impairment.counts_frames else "veth")
        features = _OFFLOADS[offload].split()
        if self.impairment.holds_frames or self._userlink is not None:
            # a packet socket hands on what it reads: the sum must be in the frame, not left to a card
            features[features.index("tx") + 1] = "off"
        for space in self._ends:
            space.run(["ethtool", "-K", self.name, *features])

    def _set_rate(self) -> None:
        rate = self.impairment.bits_per_second
        for end in self.spec.ends:
            if rate is None:
                self.run(["tc", "qdisc", "replace", "dev", end.node, "root", "noqueue"])
                continue
            burst = max(2 * (self.spec.mtu + 14), rate // 8 // 100)  # bytes: two frames, or 10 ms
            shape = f"tbf rate {rate} burst {burst} latency {_QUEUE_MS}ms"
            self.run(["tc", "qdisc", "replace", "dev", end.node, "root", *shape.split()])

    def _rules(self) -> str:
        """Replaces the table as one transaction; a rule for each chance that is not zero."""
        drop, copy = (
            round(chance * _PARTS) - 1 for chance in (self.impairment.loss, self.impairment.duplicate)
        )
        ports = [end.node for end in self.spec.ends]
        chains = []
        for number, port in enumerate(ports):
            rules = [f'type filter hook ingress device "{port}" priority 0;']
            if drop >= 0:
                rules.append(f"numgen random mod {_PARTS} <= {drop} counter drop;")
            if copy >= 0:
                # on a link of many ends each other end gets the copy; its card drops what is not for it
                copies = " ".join(f'dup to "{other}"' for other in ports if other != port)
                rules.append(f"numgen random mod {_PARTS} <= {copy} counter {copies};")
            chains.append(f"chain port{number} {{ {' '.join(rules)} }}\n")
        fresh = f"table netdev lab {{\n{''.join(chains)}}}" if max(drop, copy) >= 0 else ""
        return f"table netdev lab\ndelete table netdev lab\n{fresh}\n"

    def _set_userlink(self) -> None:
        if self._userlink is None:
            self.run(["nft", "-f", "-"], input="table netdev lab\ndelete table netdev lab\n")
            ports = [end.node for end in self.spec.ends]
            for port in ports:
                self.run(["ip", "link", "set", "dev", port, "nomaster"])
            self._userlink = self.start(
                [sys.executable, "-m", "simulations.lab.userlink", str(self.spec.seed), *ports],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=2,
                env=reaper.python_environment(),
            )
        self._base = Counters(**self._ask({**asdict(self.impairment), "rate": None}))

    def _ask(self, message: dict[str, Any]) -> dict[str, int]:
        process = self._userlink
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            answer: dict[str, int] = json.loads(process.stdout.readline())
        except (OSError, ValueError):
            raise LabError(
                f"The user-space link of {self.name} ended by itself: see its message above."
            ) from None
        return answer


def describe(impairment: Impairment) -> str:
    """ "15mbit, loss 0.01", for people."""
    numbers = ((key, value) for key, value in asdict(impairment).items() if key != "rate" and value)
    return ", ".join([impairment.rate or "no limit", *(f"{key} {value:g}" for key, value in numbers)])
