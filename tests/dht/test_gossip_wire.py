"""Every datagram of the mesh: fixed vectors, and bytes that are none."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht import endpoints
from dht.messages import (
    DATAGRAM_BYTES,
    Alive,
    Close,
    Digest,
    GossipMessage,
    Graft,
    Have,
    Open,
    Opened,
    Prune,
    Push,
    Want,
    decode_gossip,
    encode_gossip,
)
from tests.dht.mesh_world import EPOCH_2026, gossip, mesh

A, B = b"\xa0" * 8, b"\xb0" * 8
A_HEX, B_HEX = "c408" + A.hex(), "c408" + B.hex()

VECTORS: list[tuple[GossipMessage, str]] = [
    (Open(A), f"d1 93 01 {A_HEX} c400"),
    (Open(A, B), f"d1 93 01 {A_HEX} {B_HEX}"),
    (Opened(A, B, taken=True), f"d1 94 02 {A_HEX} {B_HEX} c3"),
    (Close(A), f"d1 92 03 {A_HEX}"),
    (Push(A, b"bulletin"), f"d1 93 04 {A_HEX} c408{b'bulletin'.hex()}"),
    (Have(A, bytes(12)), f"d1 93 05 {A_HEX} c40c{bytes(12).hex()}"),
    (Want(A, bytes(24)), f"d1 93 06 {A_HEX} c418{bytes(24).hex()}"),
    (Prune(A), f"d1 92 07 {A_HEX}"),
    (Graft(A), f"d1 92 08 {A_HEX}"),
    (Digest(A, bytes(256)), f"d1 93 09 {A_HEX} c50100{bytes(256).hex()}"),
    (Alive(A, answer=False), f"d1 93 0a {A_HEX} c2"),
]


@pytest.mark.parametrize(("message", "wire"), VECTORS, ids=lambda value: type(value).__name__)
def test_vectors(message: GossipMessage, wire: str) -> None:
    datagram = bytes.fromhex(wire)
    assert encode_gossip(message) == datagram
    assert decode_gossip(datagram[1:]) == message


def test_the_longest_fit_a_datagram() -> None:
    assert len(encode_gossip(Have(A, bytes(1092)))) <= DATAGRAM_BYTES
    assert len(encode_gossip(Push(A, bytes(1100)))) <= DATAGRAM_BYTES


@pytest.mark.parametrize(
    "wire",
    [
        f"92 0b {A_HEX}",  # of no kind
        "92 03 c407" + "00" * 7,
        "92 03 c409" + "00" * 9,
        f"93 09 {A_HEX} c4ff" + "00" * 255,
        f"93 0a {A_HEX} 01",
        f"93 05 {A_HEX} c5044d" + "00" * 1101,
        f"92 03 {A_HEX} 00",
        "81 01 02",
        "",
    ],
)
def test_what_is_none(wire: str) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_gossip(bytes.fromhex(wire))


@given(st.sampled_from(VECTORS), st.binary(max_size=40), st.integers(0, 300))
def test_neighbours_and_strangers_may_send_anything(
    vector: tuple[GossipMessage, str], noise: bytes, place: int
) -> None:
    """Also inside a bulletin, also with the cookie of a link that stands."""
    world = mesh(3, settle_s=5)
    node = gossip(world.honest[0])
    link = next(iter(node._links.by_endpoint.values()))
    datagram = bytes.fromhex(vector[1])
    place %= len(datagram)
    changed = datagram[:place] + noise + datagram[place + len(noise) :]
    for cookie in (A, link.mine):
        for source in (link.endpoint, endpoints.pack("203.0.114.9", 9)):
            node.receive(changed.replace(A, cookie), source, world.now_us, EPOCH_2026)
            node.receive(encode_gossip(Push(cookie, noise)), source, world.now_us, EPOCH_2026)
    world.run(5)
    assert not node.events
