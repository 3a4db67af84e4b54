"""What the vault says no with: `code` and `status` are those of an HTTP answer, as the seeds class them."""

from __future__ import annotations

from typing import ClassVar

from node.errors import Refused, Usage, UserError


class SecretError(UserError):
    """A secret could not be put, had or removed."""

    code: ClassVar[str]
    status: ClassVar[int]


class NoSuchSecret(SecretError):
    """No secret has this name."""

    code = "NOT_FOUND"
    status = 404


class Expired(NoSuchSecret):
    """It was there, and its time is over; it is erased now."""


class NotPermitted(SecretError, Refused):
    """It is there, and not for the one who asks."""

    code = "NOT_PARTY"
    status = 403


class BadPurpose(SecretError, Usage):
    """A name that no secret can have."""

    code = "INVALID_REQUEST"
    status = 400


class VaultFull(SecretError):
    """There is no room for another secret."""

    code = "VAULT_FULL"
    status = 409
