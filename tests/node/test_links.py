"""Addresses of the socket and of discovery: the same machine both ways."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.links import LINKS_MAX, Links


def test_both_families_there_and_back() -> None:
    links = Links()
    for address in (("::ffff:192.0.2.1", 51777), ("2001:db8::1", 1)):
        endpoint = links.endpoint(address)
        assert endpoint is not None
        assert links.address(endpoint) == address
    assert links.endpoint(("::ffff:192.0.2.1", 51777)) == bytes([192, 0, 2, 1]) + (51777).to_bytes(2, "big")


def test_a_link_local_address_keeps_its_link() -> None:
    links = Links()
    endpoint = links.endpoint(("fe80::1%2", 7))
    assert endpoint is not None
    assert links.address(endpoint) == ("fe80::1%2", 7)
    assert links.endpoint(("fe80::1%3", 7)) == endpoint
    assert links.address(endpoint) == ("fe80::1%3", 7), "where it was heard last"
    assert Links().address(endpoint) is None, "on which link would it be?"


def test_links_that_are_remembered_have_a_bound() -> None:
    links = Links()
    found = [links.endpoint((f"fe80::{number:x}%2", 7)) for number in range(1, LINKS_MAX + 2)]
    assert found[0] is not None
    assert found[-1] is not None
    assert links.address(found[0]) is None
    assert links.address(found[-1]) is not None


def test_what_nothing_can_be_sent_to_has_no_endpoint() -> None:
    links = Links()
    for host, port in (("::ffff:192.0.2.1", 0), ("::ffff:0.0.0.0", 1), ("ff02::1", 1), ("nonsense", 1)):
        assert links.endpoint((host, port)) is None


@given(st.binary(max_size=20))
def test_any_endpoint_is_sent_to_or_left(endpoint: bytes) -> None:
    links = Links()
    address = links.address(endpoint)
    if address is not None:
        assert links.endpoint(address) == endpoint
