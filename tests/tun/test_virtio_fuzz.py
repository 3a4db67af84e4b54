"""Whatever `check` accepts and normalises, the checker written from the specification accepts.

`make test` tries the same inputs every time; `make soak` goes on for half an hour with new ones.
"""

from __future__ import annotations

import random
import struct
import time
from dataclasses import replace

from tests.scale import SOAK
from tests.virtio_packets import ACK, CWR, FIN, PSH, TCP, UDP, Shape
from tests.virtio_spec import Objection, examine
from tun.virtio import check, complete, headers_end, mend

ROUNDS = 150_000
SOAK_SECONDS = 1800
EDGES = (
    0,
    1,
    5,
    6,
    7,
    8,
    16,
    17,
    20,
    28,
    40,
    48,
    60,
    64,
    255,
    256,
    1000,
    0x7FFF,
    0x8000,
    0xFFF0,
    0xFFFE,
    0xFFFF,
)
HOP_BY_HOP = b"\x3c\0\1\4\0\0\0\0"  # then destination options


def shape(chance: random.Random) -> Shape:
    """Any sound packet: with and without offloads, options, flags; small, for speed."""
    version, protocol = chance.choice((4, 6)), chance.choice((TCP, UDP))
    ip_options = b"\1\1\1\1" * chance.choice((0, 0, 0, 1, 10))
    if version == 6:
        ip_options = chance.choice((b"", b"", HOP_BY_HOP + bytes([protocol]) + bytes(7)))
    gso = chance.choice((0, 1, 3, 10, 50))
    size = gso * chance.randint(0, 64) + chance.randint(0, gso) if gso else chance.randint(0, 100)
    return Shape(
        version,
        protocol,
        bytes(size),
        gso,
        options=b"\1\1\1\1" * chance.choice((0, 3, 10)),
        ip_options=ip_options,
        flags=ACK | chance.choice((0, 0, FIN, PSH, CWR, 2, 4, 0x20)),
        fragment=chance.choice((0, 0x4000, 0x4000, 0x4000, 0x2000, 1)),
    )


def mutate(chance: random.Random, data: bytearray, made: Shape) -> None:
    """One change, mostly of a field that says how the rest is to be read."""
    ip, transport = 10, 10 + made.transport
    words = [2, 4, 6, 8, ip + 2, ip + 4, ip + 6, transport + 4, transport + 12]
    single = [0, 1, ip, ip + 6, ip + 9, ip + 40, ip + 41, transport + 12, transport + 13]
    kind = chance.randrange(8)
    if kind <= 1:  # a number that is on an edge, or off by a little
        at = min(chance.choice(words), len(data) - 2)
        form = "<H" if at < 10 else "!H"
        (now,) = struct.unpack_from(form, data, at)
        value = chance.choice(
            (chance.choice(EDGES), now + chance.randint(-9, 9), len(data) - chance.randint(0, 70))
        )
        struct.pack_into(form, data, at, value & 0xFFFF)
    elif kind == 2:
        data[min(chance.choice(single), len(data) - 1)] = (
            chance.choice((*EDGES, 43, 44, 0x45, 0x60, 0x4F, 0x81, 0x85)) & 255
        )
    elif kind == 3:
        data[chance.randrange(min(len(data), transport + 20))] ^= 1 << chance.randrange(8)
    elif kind == 4:
        del data[max(16, len(data) - chance.choice((1, 2, chance.randint(1, len(data))))) :]
    elif kind == 5:
        data += chance.randbytes(chance.choice((1, 2, 30)))
    elif kind == 6:  # another packet's offload
        data[:10] = shape(chance).build(chance.random() < 0.9)[:10]
    else:  # lengths that agree again, so that other contradictions come to light
        if chance.random() < 0.3:
            del data[max(16, transport + chance.randint(0, 24)) :]
        four = data[ip] >> 4 == 4
        struct.pack_into("!H", data, ip + (2 if four else 4), max(0, len(data) - ip - (0 if four else 40)))
        if made.protocol == UDP and len(data) >= transport + 6:
            struct.pack_into("!H", data, transport + 4, len(data) - transport)


def judge(data: bytes) -> bool:
    """Whether `check` accepts; every function is tried, and none may raise or read outside."""
    buffer = bytearray(data)
    headers = headers_end(buffer, 0, len(buffer))
    complete(buffer, 0, len(buffer))
    assert buffer == data
    accepted = check(buffer, 0, len(buffer))
    assert buffer[10:] == data[10:], "check changes nothing but its header"
    if not accepted:
        return False
    examine(bytes(buffer))
    again = bytearray(buffer)
    assert check(again, 0, len(again)), "what was accepted is accepted again"
    assert again == buffer
    assert complete(buffer, 0, len(buffer)), "and can be finished in software"
    if buffer[1]:
        gso = buffer[4] | buffer[5] << 8
        total = -(-(len(buffer) - 10 - headers) // gso)
        assert 2 <= total <= 64
        for first, count in ((0, 1), (total - 1, 1), (0, total - 1)):
            end = min((first + count) * gso, len(buffer) - 10 - headers)
            part = buffer[: 10 + headers] + buffer[10 + headers + first * gso : 10 + headers + end]
            assert mend(part, 0, first, count, total, len(part))
            assert check(part, 0, len(part)), "a part of what was accepted is accepted"
            examine(bytes(part))
    return True


def attempt(seed: str) -> bool:
    chance = random.Random(seed)
    if chance.random() < 0.02:
        data = bytearray(chance.randbytes(chance.randint(0, 120)))
    else:
        made = shape(chance)
        if made.gso and chance.random() < 0.05:
            made = replace(made, gso=0)
        data = bytearray(made.build(partial=chance.random() < 0.85))
        for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 5))):
            mutate(chance, data, made)
    try:
        return judge(bytes(data))
    except (Objection, AssertionError, IndexError, struct.error, ValueError) as error:
        raise AssertionError(f"seed {seed!r}: {error!r}; the packet: {bytes(data).hex()}") from error


def test_the_specification_agrees() -> None:
    accepted = rounds = 0
    if SOAK:
        begin, stop = random.SystemRandom().getrandbits(64), time.monotonic() + SOAK_SECONDS
        while time.monotonic() < stop:
            accepted += attempt(f"{begin} {rounds}")
            rounds += 1
    else:
        for rounds in range(ROUNDS):
            accepted += attempt(str(rounds))
    print(f"{accepted} of {rounds} accepted")
    assert 0.1 < accepted / rounds < 0.9
