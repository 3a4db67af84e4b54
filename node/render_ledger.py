"""What the ledger answers, as text for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.text import Text

from crypto.pulse import ZEQOND_MS
from node.render import columns, moment, size

_MILLIONTHS: Final = 1_000_000
_CHAIN: Final = ("NUMBER", "WHEN", "PARTNER", "ZEQ", "PARTNER'S HALF", "TUNNEL")
_SUMS: Final = ("PARTNER", "EARNED", "SPENT", "ZEQ IN ALL")


def zeq(millionths: int) -> str:
    """Exact, with at most six decimals: "12.5", "-0.000001", "1,000"."""
    whole, rest = divmod(abs(millionths), _MILLIONTHS)
    decimals = f".{rest:06}".rstrip("0") if rest else ""
    return f"{'-' if millionths < 0 else ''}{whole:,}{decimals}"


def ledger(answer: Mapping[str, Any]) -> Text:
    """`zeqnode ledger`."""
    head = answer["head"]
    if head is None:
        return Text("Nothing is in the ledger yet: it begins when the first paid tunnel ends.")
    parts = [Text("\n".join(_head(answer)))]
    if answer["partners"]:
        parts.append(_table([_SUMS, *map(_partner, answer["partners"])], frozenset({1, 2, 3})))
    if answer["chain"]:
        parts.append(_table([_CHAIN, *map(_block, answer["chain"])], frozenset({0, 3})))
    return Text("\n\n").join(parts)


def _head(answer: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{answer['machine']['slug']}: {_count(answer['blocks'], 'block')}, {answer['pairs']:,} with the "
        f"partner's half, {answer['open']:,} without",
        f"  newest   number {answer['head']['number']:,}, {answer['head']['hash'][:16]}…",
    ]
    if answer["missing"]:
        lines.append(f"  missing  {_count(answer['missing'], 'block')}, of before a backup was put back")
    if answer["behind"]:
        lines.append("  behind   a partner holds more of it; nothing is signed until the others were asked")
    if answer["forked"]:
        lines.append(
            "  forked   this machine signed one number twice, as a backup that was put back makes it; others "
            "refuse its tunnels: begin with a new identity"
        )
    return lines


def _partner(row: Mapping[str, Any]) -> tuple[str, ...]:
    earned, spent = row["earned_millionths"], row["spent_millionths"]
    return _who(row), zeq(earned), zeq(spent), zeq(earned - spent)


def _block(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['number']:,}",
        moment(row["zeqond"] * ZEQOND_MS / 1000),
        _who(row),
        zeq(row["delta_millionths"]),
        "here" if row["paired"] else "not here",
        row["tunnel_id"][:8],
    )


def verified(found: Mapping[str, Any]) -> list[str]:
    """`zeqnode ledger verify`."""
    lines = [
        f"The ledger of {found['slug']} holds: {_count(found['blocks'], 'block')}, {found['pairs']:,} with "
        f"the partner's half, {found['open']:,} without.",
        f"  fingerprint  {found['fingerprint']}",
        f"  earned       {zeq(found['earned_millionths'])} ZEQ",
        f"  spent        {zeq(found['spent_millionths'])} ZEQ",
    ]
    if found["missing"]:
        lines.append(f"  missing      {_count(found['missing'], 'block')}, of before a backup was put back")
    return lines


# ------------------------------------------------------------------ who owes whom


def balance(answer: Mapping[str, Any]) -> list[str]:
    """`zeqnode balance`: a sentence for each partner, and what it comes to."""
    if not answer["partners"]:
        return ["Nobody owes anybody anything."]
    lines = [_owing(row) for row in answer["partners"]]
    owed, owing = answer["owed_to_you_millionths"], answer["you_owe_millionths"]
    return [*lines, "", f"In all, you are owed {zeq(owed)} ZEQ and owe {zeq(owing)} ZEQ."]


def _owing(row: Mapping[str, Any]) -> str:
    who, net = _who(row), row["net_millionths"]
    if net < 0:
        said = f"you owe {who} {zeq(-net)} ZEQ{_for(row['bytes_for_you'])}"
    elif net > 0:
        said = f"{who} owes you {zeq(net)} ZEQ{_for(row['bytes_for_it'])}"
    else:
        said = f"you and {who} are even"
    return f"{said}; {_use(row)}."


def _for(carried: int) -> str:
    return f" for {size(carried)}" if carried else ""


def _use(row: Mapping[str, Any]) -> str:
    """What it is worth at that partner; the price is what it came to so far."""
    spendable, spent, carried = row["spendable_millionths"], row["spent_millionths"], row["bytes_for_you"]
    if row["stated_millionths"] is None and not spendable:
        return "it has not said how much it lets you owe"
    if not spendable:
        return "you can use nothing more there before it has used something of yours"
    use = f"you can still use {zeq(spendable)} ZEQ there"
    if spent and carried:
        use += f", some {size(spendable * carried // spent)} at what it has cost so far"
    return use


def _who(row: Mapping[str, Any]) -> str:
    return str(row["name"] or row["slug"])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _table(rows: list[tuple[str, ...]], right: frozenset[int]) -> Text:
    shown = columns(rows, right)
    return Text("\n").join([Text(shown[0], "bold"), *map(Text, shown[1:])])
