"""From whatever was raised to the answer: `{"error", "code", "zeqond", "phase"}`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from crypto.pulse import phase, zeqond
from node import errors
from node.api import faults
from node.api.faults import ApiFault
from node.logs import Log

_FIELDS: Final[Mapping[str, type[ApiFault]]] = {
    "target_slug": faults.InvalidTarget,
    "pricing_unit": faults.InvalidPricingUnit,
    "requested_lifespan_zeqonds": faults.InvalidLifespan,
}
_KINDS: Final[Mapping[type[errors.UserError], type[ApiFault]]] = {
    errors.Unreachable: faults.Unreachable,
    errors.Usage: faults.InvalidRequest,
    errors.Refused: faults.InvalidState,
}

log = Log("api")


@dataclass(frozen=True)
class Failure:
    """An answer that is an error; `more` are further fields of it."""

    status: int
    code: str
    sentence: str
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    def body(self, unix_ms: int) -> bytes:
        said = {"error": self.sentence, "code": self.code, **self.more, **stamp(unix_ms)}
        return json.dumps(said).encode()


def stamp(unix_ms: int) -> dict[str, Any]:
    """What every answer carries."""
    return {"zeqond": zeqond(unix_ms), "phase": phase(unix_ms)}


def failure_of(error: BaseException) -> Failure:
    """For an exception of a request. A fault of our own is logged, and told without details."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    fault = fault_of(error)
    match fault:
        case None:
            status, code = getattr(error, "status", None), getattr(error, "code", None)
            if type(status) is int and isinstance(code, str) and 400 <= status <= 599:
                return Failure(status, code, str(error))
            log.exception("a request failed by a fault of ours")
            fault = faults.Internal("the node met a fault of its own; its log has the details")
        case faults.SlugUnpinned():
            more = {"claims": [asdict(each) for each in fault.claims]}
            return Failure(fault.status, fault.code, str(fault), more=more)
        case faults.RateLimited():
            headers = {"retry-after": str(fault.retry_after)}
            return Failure(fault.status, fault.code, str(fault), headers)
        case faults.Unauthorized():
            return Failure(fault.status, fault.code, str(fault), {"www-authenticate": "Bearer"})
    return Failure(fault.status, fault.code, str(fault))


def fault_of(error: BaseException) -> ApiFault | None:
    """None for what has a status and a code of its own, and for faults of the program."""
    match error:
        case ApiFault():
            return error
        case RequestValidationError():
            return _invalid(error)
        case HTTPException(status_code=405):
            return faults.MethodNotAllowed("this path takes another method; see /api/openapi.json")
        case HTTPException(status_code=404):
            return faults.NotFound("there is no such path; see /api/openapi.json")
        case HTTPException():
            return faults.InvalidRequest("the body cannot be read; send JSON")
        case errors.UserError() if not hasattr(error, "code"):
            return _KINDS.get(type(error), faults.Internal)(str(error))
    return None


def _invalid(error: RequestValidationError) -> ApiFault:
    """The first thing that is wrong, by its field."""
    first = error.errors()[0]
    where = [each for each in first["loc"][1:] if isinstance(each, str)]
    if first["type"] == "extra_forbidden":
        return faults.InvalidRequest(f"there is no field {ascii(where[-1])[:40]} here; see /api/openapi.json")
    if not where:
        return faults.InvalidRequest(
            "this takes one JSON object, with the header content-type: application/json"
        )
    message = str(first["msg"])
    return _FIELDS.get(where[0], faults.InvalidRequest)(f"{where[0]}: {message[:1].lower()}{message[1:]}")
