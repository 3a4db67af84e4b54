"""ZeqSSL Mode-B between two machines: over TCP to a peer's tunnel address, or any other stream of bytes.

    shared = Shared.of(own_id, peer_id, seed)           the secret `ssl.mode-b.<peer's machine_id>.seed`
    async with await open_stream(host, port, shared) as stream:
        await stream.send_all(b"…")
    await serve(handler, host, port, lambda: [shared])  handler(stream, machine_id), on the other machine

Both machines are proven by the seed before the first byte of anybody's is passed on, and whoever connects has
ten seconds for that. An observer sees that it is ZeqSSL, and not between whom.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from crypto.errors import HandshakeRefused, PeerFault
from crypto.mode_b import Direction
from crypto.mode_b_opening import (
    CONFIRMATION_BYTES,
    HELLO_BYTES,
    NONCE_BYTES,
    Opening,
    is_from,
    other,
)
from node.errors import Unreachable
from node.logs import Log
from node.mode_b_stream import Clock, ModeBStream
from node.vault.secrets import zeqond_now

OPEN_SECONDS: Final = 10.0
OPENING_MAX: Final = 64  # connections that have not proven themselves, whoever they are

Handler = Callable[[ModeBStream, bytes], Awaitable[object]]

log = Log("zeqssl")


@dataclass(frozen=True)
class Shared:
    """What this machine and another have in common: the other's `machine_id` (32 bytes), the seed (32 bytes),
    and the direction in which this side sends."""

    machine_id: bytes
    seed: bytes = field(repr=False)
    direction: Direction

    @classmethod
    def of(cls, own: bytes, peer: bytes, seed: bytes) -> Shared:
        """The lower machine_id has the initiator's direction, whoever opens a stream: so nothing that one
        side has said can be played back to itself."""
        return cls(peer, seed, Direction.FROM_INITIATOR if own < peer else Direction.FROM_RESPONDER)


async def open_over(transport: trio.abc.Stream, shared: Shared, clock: Clock = zeqond_now) -> ModeBStream:
    """As the side that begins. Raises HandshakeRefused, and BrokenResourceError where the other side closes;
    then the transport is the caller's to close."""
    opening = Opening(shared.seed, shared.direction, clock(), os.urandom(NONCE_BYTES))
    await transport.send_all(opening.hello)
    answer = await _exactly(transport, HELLO_BYTES + CONFIRMATION_BYTES)
    begun = opening.agree(answer[:HELLO_BYTES], clock())
    begun.confirm(answer[HELLO_BYTES:])
    await transport.send_all(begun.confirmation)
    return ModeBStream(transport, begun, clock)


async def accept_over(
    transport: trio.abc.Stream, known: Iterable[Shared], clock: Clock = zeqond_now
) -> tuple[ModeBStream, bytes]:
    """As the side that is called: the stream, and the machine_id of who has one of the `known` seeds. Raises
    as `open_over`."""
    hello = await _exactly(transport, HELLO_BYTES)
    shared = next((one for one in known if is_from(one.seed, other(one.direction), hello)), None)
    if shared is None:
        raise HandshakeRefused("a stream of nobody whose seed is here")
    opening = Opening(shared.seed, shared.direction, clock(), os.urandom(NONCE_BYTES))
    begun = opening.agree(hello, clock())
    await transport.send_all(opening.hello + begun.confirmation)
    begun.confirm(await _exactly(transport, CONFIRMATION_BYTES))
    return ModeBStream(transport, begun, clock), shared.machine_id


async def open_stream(host: str, port: int, shared: Shared) -> ModeBStream:
    """To `serve` on another machine, in ten seconds at most. Raises Unreachable."""
    where = f"{host} port {port}"
    transport: trio.SocketStream | None = None
    try:
        with trio.fail_after(OPEN_SECONDS):
            transport = await trio.open_tcp_stream(host, port)
            return await open_over(transport, shared)
    except BaseException as error:
        if transport is not None:
            await trio.aclose_forcefully(transport)
        match error:
            case HandshakeRefused():
                sentence = f"no ZeqSSL stream with {where}: {error}"
            case trio.BrokenResourceError():
                sentence = (
                    f"{where} closed the ZeqSSL stream before it began: agree on a seed with it anew, and "
                    "compare the two clocks"
                )
            case OSError() | trio.TooSlowError():
                sentence = f"{where} gives no answer: is something served there, and is its tunnel up?"
            case _:
                raise
        raise Unreachable(sentence) from error


async def serve(
    handler: Handler,
    host: str,
    port: int,
    known: Callable[[], Iterable[Shared]],
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Until cancelled: `handler(stream, machine_id)` for every machine whose seed is known when it calls. A
    stream that breaks ends its handler and nothing else. Raises OSError for an address that cannot be had."""
    opening = trio.CapacityLimiter(OPENING_MAX)
    await trio.serve_tcp(
        partial(_serve_one, handler, known, opening), port, host=host, task_status=task_status
    )


async def _serve_one(
    handler: Handler,
    known: Callable[[], Iterable[Shared]],
    opening: trio.CapacityLimiter,
    transport: trio.SocketStream,
) -> None:
    async with transport:
        try:
            opening.acquire_nowait()
        except trio.WouldBlock:
            log.debug("a stream was not let in: too many are opening")
            return
        try:
            with trio.fail_after(OPEN_SECONDS):
                stream, machine_id = await accept_over(transport, known())
        except (PeerFault, trio.BrokenResourceError, trio.TooSlowError) as error:
            log.debug("a stream was not let in", error=error)
            return
        finally:
            opening.release()
        try:
            async with stream:
                await handler(stream, machine_id)
        except* (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            log.debug("a stream broke", machine=machine_id.hex(), errors=len(broken.exceptions))


async def _exactly(transport: trio.abc.Stream, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        some = await transport.receive_some(count - len(found))
        if not some:
            raise trio.BrokenResourceError("the stream ended before it had begun")
        found += some
    return bytes(found)
