"""How much a peer was sent and sent us."""

from __future__ import annotations

from dataclasses import dataclass

from tun.seam import Carried


@dataclass(slots=True)
class Traffic:
    """Counters of inner bytes and packets."""

    sent_bytes: int = 0
    sent_packets: int = 0
    received_bytes: int = 0
    received_packets: int = 0

    def add(self, told: Carried) -> None:
        self.sent_bytes += told.sent_bytes
        self.sent_packets += told.sent_packets
        self.received_bytes += told.received_bytes
        self.received_packets += told.received_packets
