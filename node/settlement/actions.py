"""What the desk wants done, in order.

    Save Keep Spend Earn Learn    the disk; Spend and Earn come back to the desk as `halved`
    Repeat                        from the disk
    Greet Read                    the two ledgers show each other what they hold
    Tell                          an event sealed to the other machine, under its reply secret or listed
    Send                          a note in the tunnel; lost where there is no session, and then sent again
    Admit Call Dismiss Gate       the peer of the tunnel
    Changed                       for whoever watches

Nothing is done before what comes earlier is done and, where it is for the disk, on it.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from node.settlement.life import Row
from node.settlement.wire import Request


class Save(msgspec.Struct, frozen=True):
    row: Row


class Keep(msgspec.Struct, frozen=True):
    """A voucher, taken or given."""

    voucher: bytes


class Spend(msgspec.Struct, frozen=True):
    """Write our half for the last voucher that we gave."""

    row: Row
    voucher: bytes


class Earn(msgspec.Struct, frozen=True):
    """Answer the payer's half for the last voucher that we took. `proposal`: that half; empty: only if we
    have answered it already."""

    row: Row
    voucher: bytes
    proposal: bytes


class Repeat(msgspec.Struct, frozen=True):
    """Of a tunnel that is over and settled here: show the payer our half again (wire.Half), if the ledger has
    one that answers this block."""

    machine_id: bytes
    tunnel_id: bytes
    proposal: bytes


class Learn(msgspec.Struct, frozen=True):
    """The partner's half, which answers ours."""

    partner: bytes
    block: bytes


class Greet(msgspec.Struct, frozen=True):
    """Show the partner what our ledger holds, before either signs a half."""

    row: Row


class Read(msgspec.Struct, frozen=True):
    """What the partner's ledger shows."""

    row: Row
    body: bytes


class Tell(msgspec.Struct, frozen=True):
    """`answer_to`: the request that this answers; None: to a listed machine."""

    bundle: bytes
    tag: str
    body: bytes
    answer_to: Request | None


class Send(msgspec.Struct, frozen=True):
    machine_id: bytes
    body: bytes


class Admit(msgspec.Struct, frozen=True):
    """Be a peer of it, as far as it is none: the payer calls."""

    row: Row


class Call(msgspec.Struct, frozen=True):
    """It does not answer in the session that there is: it may have lost it, so make a new one."""

    machine_id: bytes


class Dismiss(msgspec.Struct, frozen=True):
    """It is no peer any more, unless it is one by the owner's word."""

    machine_id: bytes


class Gate(msgspec.Struct, frozen=True):
    """Whether its packets pass; only of a peer that a tunnel made."""

    machine_id: bytes
    open: bool


class Changed(msgspec.Struct, frozen=True):
    row: Row


Action: TypeAlias = (
    Save
    | Keep
    | Spend
    | Earn
    | Repeat
    | Learn
    | Greet
    | Read
    | Tell
    | Send
    | Admit
    | Call
    | Dismiss
    | Gate
    | Changed
)
