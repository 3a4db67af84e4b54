"""Errors of the cores, split by blame: the peer's (what arrived is wrong) and ours (we were misused)."""

from __future__ import annotations


class PeerFault(Exception):
    """What arrived is malformed, forged, replayed or out of its time. Counted and dropped, never answered."""


class LocalFault(Exception):
    """Our own side asked for what the protocol forbids."""


class HandshakeRefused(PeerFault):
    """A ZeqKeyEx message does not parse or does not authenticate."""


class RecordRefused(PeerFault):
    """A record fails authentication, is a replay, or lies outside the accepted epochs."""


class SessionExpired(LocalFault):
    """The session's keys are gone (231 zeqonds); a new handshake is needed."""


class LaneExhausted(LocalFault):
    """A lane has no sequence number left in this epoch, or a session has no lane left."""
