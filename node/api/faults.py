"""What the API answers when it does not do as asked: a status, a code for programs, a sentence for people.

    400 invalid   401 who are you   402 balance   403 not yours   404 not there   405 408 413 how it was sent
    409 not in this state   429 too often   500 our fault   503 busy   504 the other machine is silent

An error of another part of the node needs no class here: an exception with a `status` and a `code` is
answered with them, and a UserError by its kind (`fault_of` in node/api/errors.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class ApiFault(Exception):
    """`str` of it is the sentence."""

    status: ClassVar[int]
    code: ClassVar[str]


class InvalidRequest(ApiFault):
    status, code = 400, "INVALID_REQUEST"


class InvalidTarget(InvalidRequest):
    code = "INVALID_TARGET"


class InvalidPricingUnit(InvalidRequest):
    code = "INVALID_PRICING_UNIT"


class InvalidLifespan(InvalidRequest):
    code = "INVALID_LIFESPAN"


class Unsupported(InvalidRequest):
    """Asked for something that is not built yet."""

    code = "UNSUPPORTED"


class Unauthorized(ApiFault):
    status, code = 401, "UNAUTHORIZED"


class InsufficientBalance(ApiFault):
    status, code = 402, "INSUFFICIENT_BALANCE"


class NotOwner(ApiFault):
    """The machine that is named is not this node."""

    status, code = 403, "NOT_OWNER"


class NotParty(ApiFault):
    """Neither side of the tunnel is this node."""

    status, code = 403, "NOT_PARTY"


class NotPermitted(ApiFault):
    """A secret's permissions do not name who asks."""

    status, code = 403, "NOT_PERMITTED"


class InsufficientScope(ApiFault):
    """A token to read with was shown where one to write with is needed."""

    status, code = 403, "INSUFFICIENT_SCOPE"


class ForbiddenHost(ApiFault):
    """The Host header is not one of ours, as when a site's name was made to point here."""

    status, code = 403, "FORBIDDEN_HOST"


class ForbiddenOrigin(ApiFault):
    """A page of another site sent the request."""

    status, code = 403, "FORBIDDEN_ORIGIN"


class NotFound(ApiFault):
    status, code = 404, "NOT_FOUND"


class TargetNotFound(NotFound):
    code = "TARGET_NOT_FOUND"


class MethodNotAllowed(ApiFault):
    status, code = 405, "METHOD_NOT_ALLOWED"


class TooSlow(ApiFault):
    """The body did not come in time."""

    status, code = 408, "TOO_SLOW"


class InvalidState(ApiFault):
    status, code = 409, "INVALID_STATE"


class TargetNotRelay(InvalidState):
    code = "TARGET_NOT_RELAY"


class TargetFull(InvalidState):
    code = "TARGET_FULL"


class FingerprintMismatch(InvalidState):
    code = "fingerprint_mismatch"  # in small letters in the seeds


@dataclass(frozen=True)
class Claim:
    """A machine that calls itself by the slug: its fingerprint, as people compare it, and the slug."""

    fingerprint: str
    slug: str


class SlugUnpinned(InvalidState):
    """Nobody has said yet which of the machines that claim a slug is meant; `claims` may be empty."""

    code = "SLUG_UNPINNED"

    def __init__(self, sentence: str, claims: tuple[Claim, ...]) -> None:
        super().__init__(sentence)
        self.claims = claims


class TooLarge(ApiFault):
    status, code = 413, "TOO_LARGE"


class RateLimited(ApiFault):
    """`retry_after`: whole seconds, after which it may be tried again."""

    status, code = 429, "RATE_LIMITED"

    def __init__(self, sentence: str, retry_after: int) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Internal(ApiFault):
    status, code = 500, "INTERNAL"


class Busy(ApiFault):
    status, code = 503, "BUSY"


class Unreachable(ApiFault):
    """The other machine gave no answer."""

    status, code = 504, "UNREACHABLE"
