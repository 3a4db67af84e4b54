"""For schemathesis, which loads this by $SCHEMATHESIS_HOOKS: half of the slugs that it invents become ours,
so that what it sends gets further than to "that is not this machine"; 3.0, which JSON Schema takes for an
integer and this API does not, becomes 3; and it need not invent 1,452 characters by a pattern, at three a
second."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any

import schemathesis

OWN, RELAY = "ZEQ07000000001", "ZEQ07000000007"
CIPHER_TEXTS = [b64encode(bytes([byte]) * 1088).decode() for byte in range(3)]
OWNERS = ("requester_slug", "accepter_slug", "terminator_slug", "local_machine", "slug")


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    for name in ("KeyexHandshake", "SslRespond"):
        field = raw_schema["components"]["schemas"][name]["properties"]["cipher_text"]
        assert re.search(field.pop("pattern"), CIPHER_TEXTS[0])
        field["enum"] = CIPHER_TEXTS


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    return _mapped(body)


@schemathesis.hook
def map_query(context: schemathesis.HookContext, query: Any) -> Any:
    return _mapped(query)


@schemathesis.hook
def map_path_parameters(context: schemathesis.HookContext, path_parameters: Any) -> Any:
    return _mapped(path_parameters)


def _mapped(fields: Any) -> Any:
    if not isinstance(fields, dict):
        return fields
    return {name: _value(name, value) for name, value in fields.items()}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch("ZEQ07[0-9]{8}[02468]", value):
        return OWN if name in OWNERS else RELAY
    return value
