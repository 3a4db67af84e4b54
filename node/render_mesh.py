"""What discovery answers, as text for people: the market, the mesh, a machine found, a tag event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from node.render import columns, duration, mesh_lines, moment

_UNKNOWN: Final = "–"
_MARKET: Final = ("RELAY", "FROM", "ACCEPTS", "ZEQ/GB", "ZEQ/ZEQOND", "TUNNELS", "TIER", "CHECKED")


def market(answer: Mapping[str, Any]) -> Text:
    """The table of `zeqnode market`."""
    found = answer["offers"]
    if not found:
        return Text("No relay is on offer. Offer this machine with: sudo zeqnode relay offer --per-gb 50")
    lines = columns([_MARKET, *map(_offer, found)], frozenset({3, 4, 5, 6}))
    return Text("\n").join([Text(lines[0], "bold"), *map(_shown, lines[1:], found)])


def _offer(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "this machine" if row["own"] else row["name"] or f"{row['slug']}~{row['fingerprint'][:19]}",
        row["country"] or _UNKNOWN,
        ",".join(row["accept"]),
        str(row["per_gb"]),
        str(row["per_zeqond"]),
        str(row["max_tunnels"]),
        _UNKNOWN if row["tier"] is None else str(row["tier"]),
        _checked(row),
    )


def _checked(row: Mapping[str, Any]) -> str:
    if row["checked"] is None:
        return _UNKNOWN
    at = moment(row["checked"])[-5:]
    if not row["reachable"]:
        return f"not reached, {at}"
    return f"reached in {row['rtt_ms']:.1f} ms, {at}" if row["rtt_ms"] is not None else f"reached, {at}"


def _shown(line: str, row: Mapping[str, Any]) -> Text:
    return Text(line, {True: "green", False: "red"}.get(row["reachable"], ""))


def machine(found: Mapping[str, Any]) -> list[str]:
    """Lines of `zeqnode lookup`."""
    head = " ".join(filter(None, (found["name"], found["slug"])))
    lines = [head, f"  fingerprint  {found['fingerprint']}"]
    if not found["found"]:
        return [*lines, "  no record of where it is"]
    lines.append(f"  addresses    {' '.join(found['addresses']) or 'none that others can call'}")
    if found["homes"]:
        lines.append(f"  homes        {' '.join(found['homes'])}")
    return [*lines, f"  as of        {duration(found['age_s'])} ago"]


def tag_event(event: Mapping[str, Any]) -> str:
    """One line; an author's text cannot steer the terminal."""
    author = event["name"] or f"{event['author'][:16]}…"
    said = event["text"] if event["text"] is not None else f"{len(event['body']) // 2} bytes, {event['body']}"
    plain = "".join(char if char.isprintable() else "�" for char in said)
    return f"{event['tag']}  {author}{'  (to this machine)' if event['private'] else ''}  {plain}"


def mesh(answer: Mapping[str, Any]) -> Text:
    """`zeqnode peers`."""
    parts = [_own(answer["peers"])]
    parts.append(Text("\n").join([Text("Mesh", "bold"), *map(Text, mesh_lines(answer))]))
    if links := answer["links"]:
        table = [("NEIGHBOUR", "FOR", "PUSHES", "SCORE")]
        table += [
            (
                each["endpoint"],
                duration(each["since_s"]),
                "yes" if each["eager"] else "no",
                str(each["score"]),
            )
            for each in links
        ]
        shown = columns(table, frozenset({1, 3}))
        parts.append(Text("\n").join([Text(shown[0], "bold"), *map(Text, shown[1:])]))
    return Text("\n\n").join(parts)


def _own(peers: Sequence[Mapping[str, Any]]) -> Text:
    if not peers:
        return Text("No machines of yours yet. Invite one: sudo zeqnode invite NAME")
    table = [("YOUR MACHINES", "STATE", "AT")]
    table += [(peer["name"], peer["state"], peer["endpoint"] or _UNKNOWN) for peer in peers]
    shown = columns(table)
    return Text("\n").join([Text(shown[0], "bold"), *map(Text, shown[1:])])
