"""What ZeqKeyEx says no with: `code` and `status` are those of an HTTP answer, as the seeds class them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from crypto.identity import KeyBundle, fingerprint, slug
from node.errors import Refused, Unreachable, Usage, UserError


class KeyexError(UserError):
    """No key, no session or no seed came of it."""

    code: ClassVar[str]
    status: ClassVar[int]


class InvalidTarget(KeyexError, Usage):
    """What was given is no machine's name, or this machine's own where another's is wanted."""

    code = "INVALID_TARGET"
    status = 400


class BadRequest(KeyexError, Usage):
    """A ciphertext or an origin that is none."""

    code = "INVALID_REQUEST"
    status = 400


class NotOurs(KeyexError, Refused):
    """The machine that should act is not this one."""

    code = "NOT_OWNER"
    status = 403


class TargetNotFound(KeyexError, Unreachable):
    """Nobody goes by that name."""

    code = "TARGET_NOT_FOUND"
    status = 404


class NoSession(KeyexError):
    """No key exchange has this name, or none any more."""

    code = "NOT_FOUND"
    status = 404


class PinMismatch(KeyexError, Refused):
    """The machine's key is not the one that was expected. `fingerprint`: of the one that it has."""

    code = "fingerprint_mismatch"
    status = 409

    def __init__(self, fingerprint: str) -> None:
        super().__init__(
            f"the machine's key has the fingerprint {fingerprint}, which is not the expected one; ask its "
            "owner by another way which is right"
        )
        self.fingerprint = fingerprint


class FalseKey(KeyexError, Refused):
    """What was published as the machine's is not signed by it, or is no key."""

    code = "UNTRUSTED_KEY"
    status = 409


class OriginMismatch(KeyexError, Refused):
    """The origin names another place than where the machine is known to be."""

    code = "ORIGIN_MISMATCH"
    status = 409


@dataclass(frozen=True)
class Claim:
    """A machine that goes by the slug, and its fingerprint as people compare it."""

    fingerprint: str
    slug: str


class SlugUnpinned(KeyexError, Refused):
    """Several machines, or one that nobody has confirmed, go by the slug: `claims` says which."""

    code = "SLUG_UNPINNED"
    status = 409

    def __init__(self, name: str, bundles: tuple[KeyBundle, ...]) -> None:
        ids = [bundle.machine_id for bundle in bundles]
        self.claims = tuple(Claim(fingerprint(each), slug(each)) for each in ids)
        shown = ", ".join(f"{name}~{claim.fingerprint[:19]}" for claim in self.claims)
        super().__init__(f"a slug proves nobody: say which machine is meant with its fingerprint, as {shown}")
