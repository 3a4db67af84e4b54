"""Who is who for one worker: peers by address, sessions by index; kept as the node says over the seam.

Longest-prefix matches and address translations are looked up once per address and cached; the caches are
bounded, and empty after every change.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, ip_network

from crypto.errors import LaneExhausted
from crypto.session import LANES, Session, SessionKeys
from tun.addresses import target
from tun.flow import NO_LANE, Channel, Flow
from tun.loss import LossMeter, Outlook
from tun.names4 import DEFAULT_POOL, Pool, Translator
from tun.packet import IPV6_HEADER, AllowedIPs
from tun.seam import Aim, Down, PeerGone, PeerIs, Serves, SessionClosed, SessionOpened

MAX_CACHED = 8192


@dataclass(slots=True, eq=False)
class _Known:
    """A session here. `receives`: not one that another worker before this one received in."""

    flow: Flow
    session: Session
    receives: bool
    channels: dict[tuple[int, int], Channel] = field(default_factory=dict)  # by epoch, lane; authentic ones
    heads: list[bytes] = field(default_factory=list)  # its keys in Table.channels


class Table:
    """`lane`: what this worker, one of `queues`, sends on. `pool`: the node's local IPv4 names. `ipv4`: its
    socket has only that family."""

    def __init__(
        self, lane: int, pool: IPv4Network = DEFAULT_POOL, queues: int = 1, ipv4: bool = False
    ) -> None:
        self.lane = lane
        self._ipv4 = ipv4
        self.receives = [number > 0 and (number - lane) % queues == 0 for number in range(LANES)]
        self._outlook = Outlook()
        self.flows: dict[bytes, Flow] = {}
        self.by_address6: dict[bytes, Flow] = {}
        self.channels: dict[bytes, Channel] = {}  # by receiver index ‖ session zeqond
        self._network = pool
        self._names: dict[bytes, IPv4Address] = {}
        self._by_pair4: dict[bytes, Flow] = {}
        self._leaves4: dict[bytes, bytes | None] = {}
        self._allowed: AllowedIPs[Flow] = AllowedIPs()
        self._served: AllowedIPs[bool] = AllowedIPs()
        self._sessions: dict[int, _Known] = {}  # by index >> 6
        self._deadlines: list[tuple[int, int]] = []  # when a session has keys to drop, and its index >> 6
        self._rename()

    # ------------------------------------------------------------------ what the node says

    def apply(self, message: Down) -> None:
        match message:
            case PeerIs():
                self._peer_is(message)
            case PeerGone(machine_id):
                self._peer_gone(machine_id)
            case Serves(networks):
                self._served = AllowedIPs()
                for network in networks:
                    self._served.insert(ip_network(network), True)
                self._forget_routes()
            case SessionOpened():
                self._open(message)
            case SessionClosed(index):
                self._close(index)
            case Aim():
                self._aim(message)
            case _:
                raise AssertionError(f"not for a table: {message!r}")

    def _peer_is(self, message: PeerIs) -> None:
        flow = self._flow(message.machine_id)
        self._allowed.remove_value(flow)
        for network in message.networks:
            self._allowed.insert(ip_network(network), flow)
        flow.held = message.held
        if flow.held:
            flow.until_us = NO_LANE  # its next packet finds it not ready; the lane waits for when it may
        if flow.name4 != message.name4:
            flow.name4 = message.name4
            self._names[message.machine_id] = IPv4Address(message.name4)
            self._rename()
        self._forget_routes()

    def _peer_gone(self, machine_id: bytes) -> None:
        flow = self.flows.pop(machine_id, None)
        if flow is not None:
            flow.close_lane()
            self._allowed.remove_value(flow)
            if self._names.pop(machine_id, None) is not None:
                self._rename()
            self._forget_routes()

    def _open(self, message: SessionOpened) -> None:
        keys = SessionKeys(
            message.initiator,
            message.root,
            message.zeqond_base,
            b"",
            message.local_index,
            message.remote_index,
            message.started_us,
            message.epoch,
        )
        session = Session(keys, keys.started_us, keys.epoch)
        slot = keys.local_index >> 6
        self._sessions[slot] = _Known(self._flow(message.machine_id), session, message.receives)
        heapq.heappush(self._deadlines, (session.deadline_us(), slot))

    def _close(self, index: int) -> None:
        known = self._sessions.pop(index >> 6, None)
        if known is not None:
            known.session.forget()
            if known.flow.session is known.session:
                known.flow.close_lane()
            self._forget_heads(known)

    def _aim(self, message: Aim) -> None:
        flow = self.flows.get(message.machine_id)
        if flow is None:
            return
        endpoint = (message.host, message.port)
        if endpoint != flow.endpoint:
            flow.endpoint, flow.source, flow.trains = endpoint, None, True
            flow.target = target(endpoint, self._ipv4)
        flow.room = message.room
        known = self._sessions.get(message.local_index >> 6)
        session = known.session if known is not None else None
        if session is flow.session:
            return
        flow.close_lane()
        if session is not None and not session.expired:
            try:
                flow.lane = session.open_lane(self.lane)
                flow.session = session
                flow.meter.enter(-1)  # its sequences start anew
            except LaneExhausted:  # the session was the current one before: what waits goes up
                flow.close_lane()

    def _flow(self, machine_id: bytes) -> Flow:
        flow = self.flows.get(machine_id)
        if flow is None:
            flow = self.flows[machine_id] = Flow(machine_id, meter=LossMeter(self._outlook))
        return flow

    def _rename(self) -> None:
        pool = Pool(self._network)
        pool.load(self._names)
        self.translator = Translator(pool)

    def _forget_routes(self) -> None:
        self.by_address6.clear()
        self._by_pair4.clear()
        self._leaves4.clear()
        for flow in self.flows.values():
            flow.accepted6.clear()
            flow.accepted4.clear()

    # ------------------------------------------------------------------ whose packet

    def route6(self, packet: memoryview) -> Flow | None:
        """The peer that an IPv6 packet is for; remembered by its destination."""
        if len(packet) < IPV6_HEADER:
            return None
        destination = bytes(packet[24:40])
        flow = self._allowed.lookup(destination)
        if flow is not None:
            if len(self.by_address6) >= MAX_CACHED:
                self.by_address6.clear()
            self.by_address6[destination] = flow
        return flow

    def route4(self, pair: bytes) -> Flow | None:
        """The peer that an IPv4 packet with this source ‖ destination is for."""
        flow = self._by_pair4.get(pair)
        if flow is None:
            flow = self._allowed.lookup(pair[4:])
            if flow is not None:
                if len(self._by_pair4) >= MAX_CACHED:
                    self._by_pair4.clear()
                self._by_pair4[pair] = flow
        return flow

    def leaves4(self, pair: bytes) -> bytes | None:
        """What source ‖ destination become on the wire; None: they may not go there."""
        try:
            return self._leaves4[pair]
        except KeyError:
            if len(self._leaves4) >= MAX_CACHED:
                self._leaves4.clear()
            becomes = self._leaves4[pair] = self.translator.plan_out(pair)
            return becomes

    def admit6(self, flow: Flow, pair: bytes) -> str:
        """Why the peer may not send from this source to this destination; "" if it may, and remembered."""
        refusal = self._refusal(flow, pair[:16], pair[16:])
        if refusal:
            return refusal
        if len(flow.accepted6) >= MAX_CACHED:
            flow.accepted6.clear()
        flow.accepted6.add(pair)
        return ""

    def admit4(self, flow: Flow, pair: bytes) -> str:
        """As `admit6`; what source ‖ destination become here then stands in `flow.accepted4`."""
        becomes = self.translator.plan_in(pair, flow.name4)
        if becomes is None:
            return "packet with a local name where none may be"
        refusal = self._refusal(flow, becomes[:4], becomes[4:])
        if refusal:
            return refusal
        if len(flow.accepted4) >= MAX_CACHED:
            flow.accepted4.clear()
        flow.accepted4[pair] = becomes
        return ""

    def _refusal(self, flow: Flow, source: bytes, destination: bytes) -> str:
        if flow.held:
            return "packet held back"
        if self._allowed.lookup(source) is not flow:
            return "packet with a source that is not the peer's"
        if self._served.lookup(destination) is None:
            return "packet for a destination that is not served"
        return ""

    # ------------------------------------------------------------------ whose record

    def channel(self, head: bytes, now: int) -> Channel | None:
        """By receiver index ‖ session zeqond of a record, which are only claims: a channel of which nothing
        was authentic yet is not held. Raises RecordRefused, SessionExpired."""
        known = self._sessions.get(int.from_bytes(head[:4], "big") >> 6)
        if known is None or not known.receives:
            return None
        session = known.session
        lane, epoch = session.locate(head, now)
        if not self.receives[lane]:  # its replay window is another worker's
            return None
        channel = known.channels.get((epoch, lane))
        if channel is not None:
            # At most one a zeqond and lane: whoever claims another of the epoch adds no more than that.
            self.channels[head] = channel
            known.heads.append(head)
            return channel
        cipher, window = session.receiver(epoch, lane, now)
        return Channel(known.flow, session, lane, epoch, cipher.decrypt_into, window)

    def keep(self, channel: Channel) -> None:
        """A record of it was authentic."""
        channel.kept = True
        known = self._sessions.get(channel.session.local_index >> 6)
        if known is not None:
            known.channels[channel.epoch, channel.lane] = channel

    def _forget_heads(self, known: _Known) -> None:
        for head in known.heads:
            self.channels.pop(head, None)
        known.heads.clear()

    # ------------------------------------------------------------------ time

    def advance(self, now: int) -> int:
        """Drop keys that are too old, by our own clock; returns when there is more to drop."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            _, slot = heapq.heappop(deadlines)
            known = self._sessions.get(slot)
            if known is None:
                continue
            session = known.session
            session.advance(now)
            self._forget_heads(known)
            if session.expired:
                if known.flow.session is session:
                    known.flow.close_lane()
                del self._sessions[slot]
                continue
            oldest = session.epoch(now) - 1
            known.channels = {key: each for key, each in known.channels.items() if key[0] >= oldest}
            heapq.heappush(deadlines, (session.deadline_us(), slot))
        return deadlines[0][0] if deadlines else 2**63 - 1
