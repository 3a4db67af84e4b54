"""What may be wrong with what somebody asks of tunnels here: a sentence for people, a code for programs.

The codes are the seeds'; `status` is HTTP's for the API (node/api), the exit code the command line's.
"""

from __future__ import annotations

from typing import ClassVar

from node.errors import Refused, Unreachable, Usage
from node.settlement.life import Code

_SENTENCES = {
    Code.NOT_RELAY: "it is no relay: it offers nothing; see zeqnode market for those that do",
    Code.FULL: "all its places are taken; try again in a few minutes, or another one: zeqnode market",
    Code.BALANCE: "it extends no more to this machine; `zeqnode balance` says what is owed to whom",
    Code.NOT_ALLOWED: "its owner lets only certain machines use it; ask them, or try another: zeqnode market",
    Code.PRICE: "its price is another one now; look again (zeqnode market) and repeat the command",
    Code.UNIT: "it does not sell by this unit; try --per gb",
    Code.LIAR: "this machine has signed two blocks with one number, and nobody deals with it any more",
    Code.UNGUARDED: "it cannot keep strangers from its own services; its owner has to install nftables there",
    Code.DECLINED: "its owner said no",
    Code.UNANSWERED: "it did not answer; try again later, or another one: zeqnode market",
    Code.NEVER_CAME: "it agreed, and then could not be reached; see zeqnode status for why",
}


class NotThere(Unreachable):
    """No machine of that name is listed, or it cannot be reached now."""

    status: ClassVar[int] = 404
    code: ClassVar[str] = "TARGET_NOT_FOUND"


class Silent(Unreachable):
    """It is listed, and does not answer."""

    status: ClassVar[int] = 504
    code: ClassVar[str] = "UNREACHABLE"


class BadTarget(Usage):
    status: ClassVar[int] = 400
    code: ClassVar[str] = "INVALID_TARGET"


class BadUnit(Usage):
    status: ClassVar[int] = 400
    code: ClassVar[str] = "INVALID_PRICING_UNIT"


class NoTunnel(Usage):
    status: ClassVar[int] = 404
    code: ClassVar[str] = "NOT_FOUND"


class WrongState(Usage):
    status: ClassVar[int] = 409
    code: ClassVar[str] = "INVALID_STATE"


class NotParty(Refused):
    status: ClassVar[int] = 403
    code: ClassVar[str] = "NOT_PARTY"


class Unguarded(Refused):
    """This machine cannot keep a stranger from its services."""

    status: ClassVar[int] = 409
    code: ClassVar[str] = str(Code.UNGUARDED)


class TargetRefused(Refused):
    """The other machine said no, with this code."""

    _STATUS: ClassVar = {Code.NOT_RELAY: 409, Code.FULL: 409, Code.BALANCE: 402, Code.NOT_ALLOWED: 403}

    def __init__(self, name: str, code: Code) -> None:
        super().__init__(f"{name} refused: {_SENTENCES.get(code, 'it gave no reason that is known here')}")
        self.code = str(code) or "REFUSED"
        self.status = self._STATUS.get(code, 409)


def ended_because(code: Code) -> str:
    """For people: why a tunnel ended."""
    return _ENDINGS.get(code) or _SENTENCES.get(code) or str(code)


_ENDINGS = {
    Code.NONE: "",
    Code.TERMINATED: "ended by one of the two",
    Code.LIFESPAN: "its time was over",
    Code.CREDIT: "the relay extends no more to this machine",
    Code.UNPAID: "it was not paid for three minutes",
    Code.BUDGET: "what was meant to be spent on it is spent",
    Code.OVER_METERED: "the relay claimed more than was carried; it was not paid for that",
    Code.NOTHING_CARRIED: "the relay carried nothing back; it was paid for no more than that",
    Code.UNGUARDED: "one of the two could not keep the other from its own services (it takes nftables)",
    Code.GAVE_WAY: "it had carried nothing for five minutes, and another machine asked",
}
