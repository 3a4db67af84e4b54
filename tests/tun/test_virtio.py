"""virtio_net_hdr: what may pass, what it stands for, and what becomes of its parts."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.virtio_packets import ACK, CWR, FIN, PSH, RST, SYN, TCP, UDP, URG, Shape, shapes
from tests.virtio_spec import Objection, examine
from tun.virtio import check, complete, headers_end, mend

FOUR = [Shape(version, protocol) for version in (4, 6) for protocol in (TCP, UDP)]
IDS = ["TCP over IPv4", "UDP over IPv4", "TCP over IPv6", "UDP over IPv6"]
HOP_BY_HOP = b"%c\0\1\4\0\0\0\0"  # 8 bytes: next header, none more, PadN
every_kind = pytest.mark.parametrize("shape", FOUR, ids=IDS)


def accepts(data: bytes) -> bytes | None:
    """What `check` made of data where it accepted; at an offset in a larger buffer and alone the same."""
    alone, inside = bytearray(data), bytearray(b"\xee" * 7 + data + b"\xee" * 70)
    answer = check(alone, 0, len(alone))
    assert check(inside, 7, 7 + len(data)) == answer
    assert inside == b"\xee" * 7 + alone + b"\xee" * 70
    return bytes(alone) if answer else None


def changed(data: bytes, offset: int, format_: str, *values: int) -> bytes:
    copy = bytearray(data)
    struct.pack_into(format_, copy, offset, *values)
    return bytes(copy)


def refused(data: bytes) -> bool:
    """By `check` and by the specification's checker."""
    if accepts(data) is not None:
        return False
    with pytest.raises(Objection):
        examine(data)
    return True


@given(shapes(most=64, ip_options=True))
def test_what_a_sound_kernel_gives_passes(shape: Shape) -> None:
    data = shape.build()
    if shape.gso:
        assert headers_end(bytearray(data), 0, len(data)) == shape.headers
    if shape.segments > 1 or not shape.gso:
        assert accepts(data) == data
        examine(data)
    else:
        assert refused(data)  # a super-packet of one
    plain = replace(shape, gso=0).build(partial=False)
    assert accepts(plain) == plain
    examine(plain)


@given(shapes(), st.binary(min_size=6, max_size=6), st.binary(min_size=2, max_size=2))
def test_harmless_fields_are_normalised(shape: Shape, noise: bytes, more: bytes) -> None:
    packet = replace(shape, gso=0)
    partial, plain = packet.build(), packet.build(partial=False)
    assert accepts(partial[:2] + noise[:4] + partial[6:]) == partial
    assert accepts(b"\0\0" + noise + more + plain[10:]) == plain
    assert accepts(b"\2\0" + noise + more + plain[10:]) == plain  # DATA_VALID
    if 1 < shape.segments <= 64:
        data = shape.build()
        assert accepts(data[:2] + more + data[4:]) == data


@every_kind
def test_another_gso_type_is_refused(shape: Shape) -> None:
    data = replace(shape, payload=bytes(3000), gso=1000).build()
    own = data[1]
    for kind in range(1, 256):
        passes = kind == own or (shape.protocol == TCP and kind == own | 0x80)
        assert (accepts(changed(data, 1, "B", kind)) is not None) == passes, kind
        assert passes or refused(changed(data, 1, "B", kind))


@every_kind
def test_other_flags_are_refused(shape: Shape) -> None:
    for payload, gso in ((bytes(3000), 1000), (bytes(30), 0)):
        data = replace(shape, payload=payload, gso=gso).build()
        for flags in range(3 if not gso else 2, 256):
            assert refused(changed(data, 0, "B", flags)), flags
        assert refused(changed(data, 0, "B", 0)) or not gso


@every_kind
@pytest.mark.parametrize("gso", [0, 1000])
def test_offsets_other_than_the_true_ones_are_refused(shape: Shape, gso: int) -> None:
    data = replace(shape, payload=bytes(3000), gso=gso).build()
    start, offset = struct.unpack_from("<HH", data, 6)
    edges = [*range(70), *range(len(data) - 40, len(data) + 4), 0x7FFF, 0x8000, 0xFFF0, 0xFFFE, 0xFFFF]
    for value in edges:
        assert value == start or refused(changed(data, 6, "<H", value))
        assert value == offset or refused(changed(data, 8, "<H", value))


@every_kind
@pytest.mark.parametrize("gso", [0, 1000])
def test_lengths_that_disagree_are_refused(shape: Shape, gso: int) -> None:
    data = replace(shape, payload=bytes(3000), gso=gso).build()
    assert refused(data + b"\0")
    assert refused(data[:-1])
    at = 12 if shape.version == 4 else 14
    (length,) = struct.unpack_from("!H", data, at)
    for wrong in (0, 1, length - 1, length + 1, 0xFFFF):
        assert refused(changed(data, at, "!H", wrong))
    if shape.protocol == UDP:
        for wrong in (0, 7, 8, 3007, 3009, 0xFFFF):
            assert refused(changed(data, 10 + shape.transport + 4, "!H", wrong))
    else:
        for words in range(5):
            assert refused(changed(data, 10 + shape.transport + 12, "B", words << 4))


@every_kind
def test_truncation_never_passes_nor_raises(shape: Shape) -> None:
    for gso in (0, 30):
        data = replace(shape, payload=bytes(70), gso=gso).build()
        for size in range(len(data)):
            assert accepts(data[:size]) is None
            assert headers_end(bytearray(data[:size]), 0, size) == 0
            for count in (1, 2):
                assert not mend(bytearray(data[:size]), 0, 0, count, 3, size) or size in (
                    10 + shape.headers + 30,
                    10 + shape.headers + 60,
                )
            complete(bytearray(data[:size]), 0, size)


@every_kind
@pytest.mark.parametrize(
    ("payload", "gso", "passes"),
    [
        (3000, 0, False),
        (64, 1, True),
        (65, 1, False),
        (64 * 900, 900, True),
        (64 * 900 + 1, 900, False),
        (900, 900, False),
        (901, 900, True),
        (900, 901, False),
        (900, 0xFFFF, False),
    ],
)
def test_between_two_and_64_segments(shape: Shape, payload: int, gso: int, passes: bool) -> None:
    data = replace(shape, payload=bytes(payload), gso=1000).build()
    data = changed(data, 4, "<H", gso)
    assert (accepts(data) is not None) == passes
    assert passes or refused(data)


@pytest.mark.parametrize("flag", [SYN, RST, URG])
@pytest.mark.parametrize("version", [4, 6])
def test_no_super_packet_with_flags_that_segments_may_not_share(flag: int, version: int) -> None:
    shape = Shape(version, payload=bytes(3000), gso=1000, flags=ACK | flag)
    data = bytearray(shape.build())
    assert refused(bytes(data))
    assert headers_end(data, 0, len(data)) == 0
    assert complete(data, 0, len(data)) == shape.cut()


@pytest.mark.parametrize("fragment", [0x2000, 0x0001, 0x1FFF, 0x6000])
@pytest.mark.parametrize("gso", [0, 10])
def test_no_offload_on_a_fragment(fragment: int, gso: int) -> None:
    shape = Shape(payload=bytes(30), gso=gso, fragment=fragment)
    assert refused(shape.build())
    assert accepts(replace(shape, gso=0).build(partial=False)) is not None  # without offloads it may pass


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_ipv6_options_before_the_transport_header(protocol: int) -> None:
    options = HOP_BY_HOP.replace(b"%c", b"\x3c") + HOP_BY_HOP.replace(b"%c", bytes([protocol]))
    shape = Shape(6, protocol, bytes(range(256)) * 4, ip_options=options)
    assert accepts(shape.build()) == shape.build()
    examine(shape.build())
    for offset, value in ((6, 44), (40, 44), (41, 1), (48, 58), (49, 0xFF)):
        assert refused(changed(shape.build(), 10 + offset, "B", value))
    whole = replace(shape, gso=100)
    data = bytearray(whole.build())
    assert headers_end(data, 0, len(data)) == 0
    assert refused(bytes(data))
    assert complete(data, 0, len(data)) == whole.cut()


def test_protocols_without_such_a_checksum_are_refused() -> None:
    for shape in FOUR:
        data = replace(shape, payload=bytes(100)).build()
        at = 10 + (9 if shape.version == 4 else 6)
        for protocol in range(256):
            assert protocol == shape.protocol or refused(changed(data, at, "B", protocol))


def test_nothing_but_ip_passes() -> None:
    data = Shape(payload=bytes(30)).build(partial=False)
    for first in range(256):
        assert (accepts(changed(data, 10, "B", first)) is not None) == (0x45 <= first <= 0x4F)
    assert accepts(bytes(10)) is None
    assert accepts(bytes(10) + b"\x60" + bytes(39)) is not None
    assert accepts(bytes(10) + b"\x60" + bytes(38)) is None
    assert accepts(bytes(10) + b"\x45\0\0\x14" + bytes(16)) is not None
    assert accepts(bytes(10) + b"\x46\0\0\x14" + bytes(16)) is None


@given(shapes(most=80, ip_options=True))
def test_complete_cuts_as_a_kernel_must(shape: Shape) -> None:
    data = bytearray(b"\xee" * 3 + shape.build() + b"\xee")
    before = bytes(data)
    assert complete(data, 3, len(data) - 1) == shape.cut()
    assert data == before
    bare = replace(shape, gso=0).build(partial=False)
    assert complete(bytearray(bare), 0, len(bare)) == [bare[10:]]


@given(shapes(most=20, ip_options=True, plain=False), st.data())
def test_a_mended_part_is_those_segments(shape: Shape, data: st.DataObject) -> None:
    total = shape.segments
    first = data.draw(st.integers(0, total - 1))
    count = data.draw(st.integers(1, total - first))
    whole, begin = shape.build(), 10 + shape.headers
    payload = shape.payload[first * shape.gso : (first + count) * shape.gso]
    part = bytearray(b"\xee" * 5 + whole[:begin] + payload + b"\xee" * 70)
    end = 5 + begin + len(payload)
    assert mend(part, 5, first, count, total, end)
    assert part[:5] + part[end:] == b"\xee" * 75
    mended = bytes(part[5:end])
    assert accepts(mended) == mended
    examine(mended)
    expected = shape.cut()[first : first + count]
    assert complete(bytearray(mended), 0, len(mended)) == expected
    if count == total > 1:
        assert mended == whole
    elif count > 1:
        as_if = replace(
            shape,
            payload=payload,
            sequence=(shape.sequence + first * shape.gso) & 0xFFFFFFFF,
            ident=(shape.ident + first) & 0xFFFF,
            flags=shape.flags & ~(FIN | PSH if first + count < total else 0) & ~(CWR if first else 0),
        )
        assert mended == as_if.build()


@given(shapes(most=12, plain=False), st.data())
def test_a_part_that_contradicts_the_header_is_refused_and_left_alone(
    shape: Shape, data: st.DataObject
) -> None:
    numbers = st.integers(-1, 70)
    first, count, total = data.draw(numbers), data.draw(numbers), data.draw(numbers)
    size = data.draw(st.integers(0, len(shape.payload)))
    part = bytearray(shape.build()[: 10 + shape.headers + size])
    before = bytes(part)
    true_part = (
        total == shape.segments
        and first >= 0 < count
        and first + count <= total
        and size == len(shape.payload[first * shape.gso : (first + count) * shape.gso])
    )
    assert mend(part, 0, first, count, total, len(part)) == true_part
    if not true_part:
        assert part == before


def test_a_partial_sum_is_never_zero() -> None:
    """0 in UDP's field means that there is none, and IPv6 drops such a packet."""
    for version in (4, 6):
        shape = Shape(version, UDP, bytes(60), gso=30)
        data = bytearray(shape.build()[: 10 + shape.headers + 30])
        at = 10 + shape.transport + 6
        struct.pack_into("!H", data, at, 30)  # less the 30 bytes that are not there
        assert mend(data, 0, 0, 1, 2, len(data))
        assert data[at : at + 2] == b"\xff\xff"


@given(st.binary(max_size=120))
def test_garbage_never_raises(data: bytes) -> None:
    for whole in (data, b"\1\1\0\0\5\0\x14\0\x10\0\x45" + data, b"\1\5\0\0\5\0\x28\0\6\0\x60" + data):
        buffer = bytearray(whole)
        complete(buffer, 0, len(buffer))
        headers_end(buffer, 0, len(buffer))
        mend(buffer, 0, 0, 1, 2, len(buffer))
        accepted = accepts(bytes(buffer))
        if accepted is not None:
            examine(accepted)


WHOLE = (
    "01812800030014001000"
    "45000030ffff4000400626b40a0100090a020009"
    "13881770fffffffe000000075098020014370000"
    "6162636465666768"
)
SECOND = (
    "01000000000014001000"
    "4500002b00004000400626b90a0100090a020009"
    "1388177000000001000000075010020014320000"
    "646566"
)
SECOND_COMPLETE = "4500002b00004000400626b90a0100090a02000913881770000000010000000750100200a4570000646566"


def test_vectors() -> None:
    """A TCP super-packet of three segments, what becomes of it if only its second came, and that finished."""
    shape = Shape(4, TCP, b"abcdefgh", 3, flags=ACK | PSH | CWR, sequence=0xFFFFFFFE, ident=0xFFFF)
    data = bytearray.fromhex(WHOLE)
    assert data == shape.build()
    assert check(data, 0, len(data))
    assert data.hex() == WHOLE
    part = data[:50] + data[53:56]
    assert mend(part, 0, 1, 1, 3, len(part))
    assert part.hex() == SECOND
    assert [packet.hex() for packet in complete(part, 0, len(part))] == [SECOND_COMPLETE]
