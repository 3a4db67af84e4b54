"""What each kind of value in the configuration may be: functions from TOML's value to ours, or a Wrong.

A Wrong's text goes on after the key: "port in [listen] ‹must be a whole number from 0 to 65535, not -1›".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPInterface: TypeAlias = IPv4Interface | IPv6Interface
IPNetwork: TypeAlias = IPv4Network | IPv6Network

_T = TypeVar("_T")

_PET_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_DEVICE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")  # Linux: at most 15 bytes
_FINGERPRINT: Final = re.compile(r"[a-z2-7]{52}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_SHOWN_CHARS: Final = 60


class Wrong(Exception):
    """The value cannot be taken; the text says what would be."""


def whole(low: int, high: int) -> Callable[[object], int]:
    """An integer from `low` to `high`, both included."""

    def parse(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise Wrong(f"must be a whole number from {low} to {high}, not {shown(value)}")
        return value

    return parse


def choice(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise Wrong(f"must be one of {', '.join(words)}, not {shown(value)}")
        return value

    return parse


def either(word: str, parse_other: Callable[[object], _T]) -> Callable[[object], _T | str]:
    """The word itself, or what `parse_other` takes."""

    def parse(value: object) -> _T | str:
        if value == word:
            return word
        try:
            return parse_other(value)
        except Wrong as error:
            raise Wrong(str(error).replace("must be ", f'must be "{word}" or ', 1)) from None

    return parse


def some_of(*words: str) -> Callable[[object], tuple[str, ...]]:
    """A list of these words, none of them twice, in the order of `words`."""
    known = ", ".join(words)

    def parse(value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise Wrong(f'must be a list, as in ["{words[0]}"], not {shown(value)}')
        for at, each in enumerate(value):
            if not isinstance(each, str) or each not in words:
                raise Wrong(f"may have {known}, not {shown(each)}")
            if each in value[:at]:
                raise Wrong(f"has {shown(each)} twice; keep one of them")
        return tuple(word for word in words if word in value)

    return parse


def zero_or(low: int, high: int) -> Callable[[object], int]:
    """0, which means "as the program thinks best", or an integer from `low` to `high`."""

    def parse(value: object) -> int:
        if type(value) is not int or (value != 0 and not low <= value <= high):
            raise Wrong(f"must be 0 or a whole number from {low} to {high}, not {shown(value)}")
        return value

    return parse


def yes_or_no(value: object) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"must be true or false, not {shown(value)}")
    return value


def list_of(
    parse_one: Callable[[object], _T], most: int, example: str = '["…", "…"]'
) -> Callable[[object], tuple[_T, ...]]:
    def parse(value: object) -> tuple[_T, ...]:
        if not isinstance(value, list):
            raise Wrong(f"must be a list, as in {example}, not {shown(value)}")
        if len(value) > most:
            raise Wrong(f"may have {most} entries, not {len(value)}")
        return tuple(map(parse_one, value))

    return parse


def pet_name(value: object) -> str:
    if not isinstance(value, str) or not _PET_NAME.fullmatch(value):
        raise Wrong(f"must be 1 to 32 of a to z, 0 to 9 and inner hyphens, not {shown(value)}")
    return value


def device_name(value: object) -> str:
    if not isinstance(value, str) or not _DEVICE_NAME.fullmatch(value):
        raise Wrong(
            f'must be a network device\'s name of at most 15 characters, as "zeq0", not {shown(value)}'
        )
    return value


def directory(value: object) -> Path:
    return _path(value, "/var/lib/zeqnode")


def file_or_none(value: object) -> Path | None:
    return None if value == "" else _path(value, "/etc/zeqnode/mesh.secret")


def address(value: object) -> IPAddress:
    return _ip(ip_address, value, 'an IP address, as "::" or "192.0.2.1"')


def interface_address(value: object) -> IPInterface:
    return _ip(ip_interface, value, 'an address with its prefix length, as "10.9.0.1/24"')


def network(value: object) -> IPNetwork:
    found = _ip(lambda text: ip_network(text, strict=False), value, 'a network, as "192.168.7.0/24"')
    if found.prefixlen == 0:
        raise Wrong(f"cannot be {shown(value)}: sending everything through a peer is not in this version")
    if str(found) != value and str(found.network_address) != str(value).partition("/")[0].lower():
        raise Wrong(f"must be a network, not an address in one: {shown(value)} would be {shown(str(found))}")
    return found


def ipv4_pool(value: object) -> IPv4Network:
    found = network(value)
    if not isinstance(found, IPv4Network) or found.prefixlen > 30:
        raise Wrong(f'must be an IPv4 network of /30 or larger, as "198.18.0.0/16", not {shown(value)}')
    return found


def endpoint(value: object) -> str:
    # Loads the cryptography that invitations need: not before there is an endpoint to check.
    from node.invitation import is_address

    if not isinstance(value, str) or not is_address(value):
        raise Wrong(
            f'must be host:port, as "home.example.net:51777" or "[2001:db8::1]:51777", not {shown(value)}'
        )
    return value


def peer(value: object) -> str:
    """A pet name, or a whole fingerprint with or without its hyphens."""
    if isinstance(value, str):
        compact = value.replace("-", "").lower()
        if _FINGERPRINT.fullmatch(compact):
            return value
    return pet_name(value)


def host(value: object) -> str:
    if not isinstance(value, str) or not _HOST.fullmatch(value):
        raise Wrong(f'must be a host\'s name without a port, as "zeq.example.net", not {shown(value)}')
    return value.lower()


def shown(value: object) -> str:
    """The value as a person wrote it, nearly; cut where it is long."""
    text = f'"{value}"' if isinstance(value, str) else str(value)
    if isinstance(value, bool):
        text = text.lower()
    text = "".join(char if char.isprintable() else "�" for char in text)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _path(value: object, example: str) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise Wrong(f'must be a path, as "{example}", not {shown(value)}')
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise Wrong(f"names the home of a user that is not known here: {shown(value)}") from None
    if not path.is_absolute():
        raise Wrong(f'must be a whole path, as "{example}", not {shown(value)}')
    return path


def _ip(parse: Callable[[str], _T], value: object, kind: str) -> _T:
    # A zone ("%eth0") means something on one machine and one boot only.
    if isinstance(value, str) and "%" not in value:
        try:
            return parse(value)
        except ValueError:
            pass
    raise Wrong(f"must be {kind}, not {shown(value)}")
