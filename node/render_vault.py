"""What the vault answers, as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.text import Text

from node.render import columns, moment

_UNKNOWN: Final = "–"
_SECRETS: Final = ("SECRET", "BYTES", "PUT BY", "ALSO FOR", "MADE", "EXPIRES")
_AUDIT: Final = ("NUMBER", "TIME", "WHAT", "SECRET", "BY")
KINDS: Final = {
    "field_key": "The next start needs the new key in ZEQ_FIELD_KEY; the old one opens nothing any more.",
    "passphrase": "The next start needs the new one in ZEQ_PASSPHRASE; the old one opens nothing any more.",
    "key_file": "The new key file is vault.key; a copy of the old one opens nothing any more.",
}


def secrets(answer: Mapping[str, Any]) -> Text:
    """`zeqnode vault list`."""
    table = [_SECRETS]
    table += [
        (
            each["purpose"],
            str(each["size"]),
            each["by_name"],
            ", ".join(each["permission_names"]) or _UNKNOWN,
            moment(each["made"]),
            moment(each["expires"]) if each["expires"] is not None else "never",
        )
        for each in answer["secrets"]
    ]
    shown = columns(table, frozenset({1}))
    head = Text(f"Owner  {answer['owner']}\n\n")
    return head + Text("\n").join([Text(shown[0], "bold"), *map(Text, shown[1:])])


def audit(answer: Mapping[str, Any]) -> Text:
    """`zeqnode vault audit`: denials are red."""
    table = [_AUDIT]
    table += [
        (
            str(each["number"]),
            moment(each["time"]),
            each["what"] if each["outcome"] == "done" else f"{each['what']}: {each['outcome']}",
            each["purpose"] or _UNKNOWN,
            each["by_name"],
        )
        for each in answer["entries"]
    ]
    shown = columns(table, frozenset({0}))
    styles = ["red" if each["outcome"] == "denied" else "" for each in answer["entries"]]
    lines = [Text(line, style) for line, style in zip(shown[1:], styles, strict=True)]
    return Text("\n").join([Text(shown[0], "bold"), *lines])


def verified(answer: Mapping[str, Any]) -> str:
    """`zeqnode vault verify`."""
    count, first = answer["entries"], answer["first"]
    opens = "1 secret opens" if answer["secrets"] == 1 else f"{answer['secrets']} secrets open"
    holds = "1 entry of the audit holds" if count == 1 else f"{count} entries of the audit hold"
    return f"{opens}, and {holds}{f', from number {first} on' if first > 1 else ''}."
