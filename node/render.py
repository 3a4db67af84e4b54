"""Answers of the node as text for people. Pure: dictionaries in, lines or styled text out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.text import Text

_STATES: Final = {
    "connected": ("connected", "green"),
    "connecting": ("connecting", "yellow"),
    "idle": ("idle", "cyan"),
    "unreached": ("not reached", "red"),
    "down": ("down", "dim"),
}
# What the data path may have to go without, as status has it and as people know it.
_OFFLOADS: Final = {
    ("tun", "vnet_hdr"): "vnet_hdr",
    ("tun", "tso"): "TSO",
    ("tun", "uso"): "USO",
    ("udp", "segment"): "UDP_SEGMENT",
    ("udp", "gro"): "UDP_GRO",
}
_HEADER: Final = ("PEER", "STATE", "INSIDE", "SINCE", "HEARD", "RTT", "IN", "OUT")
_UNKNOWN: Final = "–"
_GAP: Final = "  "


def console() -> Console:
    """For standard output: coloured on a terminal only, and without NO_COLOR."""
    return Console(highlight=False, markup=False, emoji=False)


def status(answer: Mapping[str, Any], *, verbose: bool = False) -> Text:
    """The whole of `zeqnode status`."""
    parts = [_machine(answer), _peers(answer["peers"], verbose=verbose)]
    whys = [f"{peer['name']}: {peer['why']}" for peer in answer["peers"] if peer.get("why")]
    if whys:
        parts.append(Text("\n".join(whys)))
    if discovery := _discovery(answer.get("discovery")):
        parts.append(discovery)
    if count := answer["invitations_open"]:
        parts.append(Text(f"{_count(count, 'open invitation')}: zeqnode invite list"))
    if verbose:
        refused = Counter(answer["counters"])
        refused.update((answer.get("discovery") or {}).get("counters", {}))
        parts.append(_counters(refused))
    return Text("\n\n").join(parts)


def invitations(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The table of `zeqnode invite list`."""
    table = [("ID", "NAME", "STATE", "USED BY", "CREATED", "EXPIRES")]
    for row in rows:
        used_by = row.get("used_by") or _UNKNOWN
        created, expires = moment(row["created"]), moment(row["expires"])
        table.append((row["id"], row["name"] or _UNKNOWN, row["state"], used_by, created, expires))
    return columns(table)


def settings(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """ "section.key = value", with values as TOML has them; null is "not set"."""
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += settings(value, f"{prefix}{key}.")
        else:
            shown = "not set" if value is None else json.dumps(value, ensure_ascii=False)
            lines.append(f"{prefix}{key} = {shown}")
    return lines


def ping_reply(peer: str, reply: Mapping[str, Any]) -> str:
    """One line for {seq, rtt_ms, path, endpoint} or {seq, error}."""
    if "error" in reply:
        return f"seq={reply['seq']} {reply['error']}"
    way = " ".join(filter(None, (reply.get("path"), reply.get("endpoint"))))
    return f"from {reply.get('name', peer)}: seq={reply['seq']} time={reply['rtt_ms']:.1f} ms path={way}"


def ping_summary(peer: str, replies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `zeqnode ping --json` prints; times in milliseconds, loss from 0 to 1, null where none came."""
    times = [reply["rtt_ms"] for reply in replies if "rtt_ms" in reply]
    return {
        "peer": peer,
        "sent": len(replies),
        "received": len(times),
        "loss": round(1 - len(times) / len(replies), 4) if replies else None,
        "min_ms": min(times, default=None),
        "avg_ms": round(sum(times) / len(times), 3) if times else None,
        "max_ms": max(times, default=None),
        "replies": list(replies),
    }


def ping_line(summary: Mapping[str, Any]) -> str:
    line = f"{summary['sent']} sent, {summary['received']} back, {summary['loss']:.0%} lost"
    if not summary["received"]:
        return line
    return f"{line}; min/avg/max {summary['min_ms']:.1f}/{summary['avg_ms']:.1f}/{summary['max_ms']:.1f} ms"


def columns(table: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Rows as lines of aligned columns, those in `right` to the right; no blanks at the ends."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        _GAP.join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def moment(unix: float) -> str:
    """Local time, to the minute."""
    return datetime.fromtimestamp(unix, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def duration(seconds: float | None) -> str:
    """The two largest units: 42 s, 3 min 5 s, 2 h 5 min, 4 d 3 h."""
    if seconds is None:
        return _UNKNOWN
    whole, units = int(seconds), ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for at, (size, unit) in enumerate(units):
        if whole >= size:
            rest = whole % size
            small, name = units[min(at + 1, 3)]
            return f"{whole // size} {unit}" + (f" {rest // small} {name}" if rest >= small else "")
    return "0 s"


def size(count: float) -> str:
    """Bytes in decimal units: 999 B, 1.5 kB, 20 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    return f"{count:.1f} {unit}" if unit != "B" and count < 9.95 else f"{count:.0f} {unit}"


def _machine(answer: Mapping[str, Any]) -> Text:
    machine, interface, listen = answer["machine"], answer["interface"], answer["listen"]
    text = Text.assemble(
        (machine["name"], "bold"),
        f"  {machine['slug']}  zeqnode {machine['version']}, running for {duration(machine['uptime_s'])}",
    )
    addresses = " ".join(listen["addresses"]) or "no address"
    for name, value in (
        ("fingerprint", machine["fingerprint"]),
        ("interface", f"{interface['name']}, MTU {interface['mtu']}, {' '.join(interface['addresses'])}"),
        ("listening", f"UDP {listen['port']}: {addresses}"),
        ("data path", _engine(answer.get("engine"))),
    ):
        text.append(f"\n  {name:<13}", "dim").append(value)
    return text


def _engine(engine: Mapping[str, Any] | None) -> str:
    """ "2 queues, segments only; without: UDP_GRO (…)"; a node of the version before this says nothing."""
    if engine is None:
        return _UNKNOWN
    mode, restarts = engine["mode"], engine["restarts"]
    facts = [_count(engine["queues"], "queue")]
    if mode != "auto":
        facts.append(f"{mode} only")
    if restarts:
        facts.append(_count(restarts, "restart"))
    lacking = [name for (part, key), name in _OFFLOADS.items() if not engine[part][key]]
    if not lacking:
        return ", ".join([*facts, "all offloads"])
    why = "forced by the configuration or refused by this kernel"
    return f"{', '.join(facts)}; without: {', '.join(lacking)} ({why})"


def _discovery(found: Mapping[str, Any] | None) -> Text | None:
    """A node of the version before this has none to show."""
    if found is None:
        return None
    if not found["enabled"]:
        return Text("Discovery is off.")
    text = Text.assemble(("discovery", "bold"))
    for line in mesh_lines(found):
        text.append(f"\n{line}")
    if offer := found["offer"]:
        text.append(f"\n  offered as a relay for {offer['per_gb']} ZEQ per GB: zeqnode relay")
    return text


def mesh_lines(found: Mapping[str, Any]) -> list[str]:
    """What a person wants to know of discovery at a glance."""
    lines = []
    for family in found["families"]:
        seen = family["endpoint"] or "where others see us is not known yet"
        role = "serves others" if family["serving"] else "only asks"
        name = f"IPv{family['family']}"
        lines.append(f"  {name:<13}{_count(family['contacts'], 'node')} known, {role}, {seen}")
    lines.append(f"  {'homes':<13}{' '.join(found['homes']) or 'none'}; lodgers here: {found['lodgers']}")
    kept = f"{_count(found['records'], 'record')} kept, {_count(found['offers'], 'offer')} known"
    lines.append(f"  {'gossip':<13}{_count(len(found['links']), 'neighbour')}; {kept}")
    return lines


def _peers(peers: Sequence[Mapping[str, Any]], *, verbose: bool) -> Text:
    if not peers:
        return Text("No peers yet. Invite one: sudo zeqnode invite NAME")
    lines = columns([_HEADER, *map(_row, peers)], frozenset(range(3, 8)))
    state_at, inside_at = lines[0].index("STATE"), lines[0].index("INSIDE")
    text = Text.assemble((lines[0], "bold"))
    for line, peer in zip(lines[1:], peers, strict=True):
        word, style = _STATES.get(peer["state"], (peer["state"], ""))
        shown = Text(line)
        shown.stylize("bold", 0, len(peer["name"]))
        shown.stylize(style, state_at, state_at + len(word))
        text.append("\n").append_text(shown)
        more = [_GAP.join(filter(None, (peer["address6"], _way(peer))))]
        for extra in (*more, *(_details(peer) if verbose else ())):
            text.append(f"\n{' ' * inside_at}{extra}")
    return text


def _row(peer: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        peer["name"],
        _STATES.get(peer["state"], (peer["state"],))[0],
        peer["address4"] or _UNKNOWN,
        duration(peer["since_s"]),
        duration(peer["last_heard_s"]),
        _UNKNOWN if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.1f} ms",
        size(peer["received_bytes"]),
        size(peer["sent_bytes"]),
    )


def _way(peer: Mapping[str, Any]) -> str:
    if not peer["endpoint"]:
        return ""
    return f"{peer['path']}, {peer['endpoint']}" if peer["path"] else f"last at {peer['endpoint']}"


def _details(peer: Mapping[str, Any]) -> list[str]:
    loss = peer.get("loss")
    facts = {
        "epoch": peer.get("epoch"),
        "payload": peer.get("payload"),
        "mode": peer.get("mode"),
        "loss": None if loss is None else f"{loss:.2%}",
        "behind NAT": peer.get("behind_nat"),
    }
    known = ", ".join(f"{name} {_plain(value)}" for name, value in facts.items() if value is not None)
    networks = " ".join(peer.get("networks") or ())
    return [line for line in (peer["fingerprint"], known, networks) if line]


def _counters(counters: Mapping[str, int]) -> Text:
    if not counters:
        return Text("Nothing was refused.")
    lines = columns([(name, str(count)) for name, count in counters.items()], frozenset({1}))
    return Text.assemble(("Refused and dropped:", "bold"), *(f"\n  {line}" for line in lines))


def _plain(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
