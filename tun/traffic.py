"""How much a peer was sent and sent us."""

from __future__ import annotations

from dataclasses import dataclass

from tun.seam import Carried


@dataclass(slots=True)
class Traffic:
    """Counters of inner bytes and packets. `lost_bytes`: how many of those sent did not arrive, as far as the
    peer's reports of loss say; an estimate, and the peer's word."""

    sent_bytes: int = 0
    sent_packets: int = 0
    received_bytes: int = 0
    received_packets: int = 0
    lost_bytes: float = 0.0

    def sent(self, size: int) -> None:
        self.sent_bytes += size
        self.sent_packets += 1

    def received(self, size: int) -> None:
        self.received_bytes += size
        self.received_packets += 1

    def add(self, told: Carried) -> None:
        self.sent_bytes += told.sent_bytes
        self.sent_packets += told.sent_packets
        self.received_bytes += told.received_bytes
        self.received_packets += told.received_packets
        if told.loss > 0:  # −1: nothing was reported; above 1: a lie
            self.lost_bytes += told.sent_bytes * min(1.0, told.loss)
