"""JSON as strangers may send it: one meaning, or none.

Python's own reader takes more than JSON is, and keeps the last of two equal keys, so that two readers of one
text may see two requests.
"""

from __future__ import annotations

import json
from typing import NoReturn

from node.api.faults import InvalidRequest


def check(body: bytes) -> None:
    """Raises InvalidRequest: not UTF-8, not JSON, NaN or Infinity, a key twice, numbers of thousands of
    digits, nested too deep."""
    try:
        json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not text in UTF-8; send JSON") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deep; send one flat object") from None
    except ValueError:
        raise InvalidRequest("the body is not JSON; send one object, with double quotes") from None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidRequest("the body has a key twice; send each of them once")
    return found


def _refuse(name: str) -> NoReturn:
    raise InvalidRequest(f"the body has the number {name}, which JSON has not; send whole numbers")
