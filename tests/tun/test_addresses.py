"""UDP addresses between the socket and the cores: both families of sockets, and links."""

from __future__ import annotations

import pytest

from tun.addresses import Address, of_source, target

ROUND_TRIPS: list[tuple[tuple[str, int] | tuple[str, int, int, int], bool, Address]] = [
    (("192.0.2.1", 7), True, ("::ffff:192.0.2.1", 7)),
    (("::ffff:192.0.2.1", 7, 0, 0), False, ("::ffff:192.0.2.1", 7)),
    (("2001:db8::1", 7, 0, 0), False, ("2001:db8::1", 7)),
    (("fe80::1", 7, 0, 3), False, ("fe80::1%3", 7)),
]


@pytest.mark.parametrize(("heard", "ipv4", "address"), ROUND_TRIPS)
def test_what_is_heard_can_be_answered(
    heard: tuple[str, int] | tuple[str, int, int, int], ipv4: bool, address: Address
) -> None:
    assert of_source(heard) == address
    answer = target(address, ipv4)
    assert answer[:2] == heard[:2]
    assert answer[3:] in ((), heard[3:])
