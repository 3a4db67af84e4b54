"""Asking another machine something, wherever it is.

    question ─▶ sealed event, again after 4 and 8 s while nothing is back ─▶ answer, or Unanswered

No tunnel is needed, nor that the two know each other: it takes the other machine's key bundle, its lookup
secret, and a place where it is found. The other side is node/answering.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Final, Protocol, TypeAlias

import trio

from crypto.errors import LocalFault
from crypto.identity import slug
from dht.calls import Recipient, Sent
from dht.endpoints import Endpoint
from dht.tags import Tagged
from node import asks
from node.asks import ANSWER_TAG, ASK_TAG, ID_BYTES, PAYLOAD_BYTES, Answer, Ask, BadAsk, Status
from node.errors import Refused, Unreachable
from node.replies import Replies

ASK_SECONDS: Final = 15.0
AGAIN_SECONDS: Final = 4.0
TRIES: Final = 3
ASKING_MAX: Final = 16  # of ours at once; the mesh calls 64 machines at a time for all services

Places: TypeAlias = tuple[tuple[Endpoint, ...], tuple[tuple[Endpoint, bytes], ...]]


class Unanswered(Unreachable):
    """The other machine was asked, and no answer came."""

    code: ClassVar[str] = "UNREACHABLE"
    status: ClassVar[int] = 504


class AskRefused(Refused):
    """The other machine says no; `code` is its word for why."""

    status: ClassVar[int] = 409

    def __init__(self, sentence: str, code: str) -> None:
        super().__init__(sentence)
        self.code = code


class Mail(Protocol):
    """What is needed of node/discovery.py."""

    async def send_event(self, to: Recipient, tag: str, body: bytes) -> Sent | None: ...

    def listen(self, pattern: str) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Tagged]]: ...


class _Question:
    """One of ours that waits. `taken`: somebody has it, the machine itself or a home of its."""

    def __init__(self, machine_id: bytes) -> None:
        self.machine_id = machine_id
        self.came = trio.Event()
        self.answer: Answer | None = None
        self.taken = False


class Asking:
    """`places()` says where this machine is answered. What is passed over is counted in `counters`."""

    def __init__(
        self, mail: Mail, replies: Replies, places: Callable[[], Places], counters: Counter[str]
    ) -> None:
        self._mail = mail
        self._replies = replies
        self._places = places
        self._counters = counters
        self._questions: dict[bytes, _Question] = {}
        self._asking = trio.CapacityLimiter(ASKING_MAX)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; no answer is heard outside of it."""
        async with self._mail.listen(ANSWER_TAG) as answers:
            task_status.started()
            async for event in answers:
                self._on_answer(event)

    async def ask(self, to: Recipient, method: str, payload: bytes, seconds: float = ASK_SECONDS) -> bytes:
        """The answer's payload. Raises Unanswered, and AskRefused."""
        if len(payload) > PAYLOAD_BYTES:
            raise LocalFault(f"a question has at most {PAYLOAD_BYTES} bytes, this one {len(payload)}")
        async with self._asking:
            with self._replies.secret() as secret:
                answer = await self._ask(to, method, payload, secret, seconds)
        return _payload(answer, slug(to.bundle.machine_id))

    async def _ask(self, to: Recipient, method: str, payload: bytes, secret: bytes, seconds: float) -> Answer:
        endpoints, homes = self._places()
        name = os.urandom(ID_BYTES)
        ask = Ask(id=name, method=method, payload=payload, secret=secret, endpoints=endpoints, homes=homes)
        question = self._questions[name] = _Question(to.bundle.machine_id)
        try:
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, to, asks.encode(ask), question, nursery.cancel_scope)
                    await question.came.wait()
                    nursery.cancel_scope.cancel()
        finally:
            del self._questions[name]
        if question.answer is not None:
            return question.answer
        who = slug(to.bundle.machine_id)
        if question.taken:
            raise Unanswered(
                f"{who} was asked and has not answered; try again, or ask for its zeqnode's version"
            )
        raise Unanswered(f"{who} is not reached: is its node running, and is it connected to the mesh?")

    async def _send(self, to: Recipient, body: bytes, question: _Question, scope: trio.CancelScope) -> None:
        """Again while there is no answer; in the end, who was never reached is not waited for."""
        for _ in range(TRIES):
            begun = trio.current_time()
            sent = await self._mail.send_event(to, ASK_TAG, body)
            question.taken |= sent is not None and (sent.delivered or sent.held > 0)
            await trio.sleep_until(begun + AGAIN_SECONDS)
        if not question.taken:
            scope.cancel()

    def _on_answer(self, event: Tagged) -> None:
        try:
            answer = asks.decode_answer(event.body)
        except BadAsk as error:
            self._counters[str(error)] += 1
            return
        question = self._questions.get(answer.id)
        if question is None or event.author != question.machine_id or not event.bundle:
            self._counters["answer to no question of ours"] += 1
        elif question.answer is None:
            question.answer = answer
            question.came.set()


def _payload(answer: Answer, who: str) -> bytes:
    """Raises AskRefused."""
    match answer.status:
        case Status.DONE:
            return answer.payload
        case Status.UNKNOWN:
            raise AskRefused(
                f"{who} does not know this question: its zeqnode is of another version", "UNSUPPORTED"
            )
        case Status.REFUSED:
            code = asks.code_of(answer.payload)
            raise AskRefused(f"{who} says no: {code}", code)
        case Status.FAILED:
            raise AskRefused(f"{who} could not answer; its own log says why", "PEER_FAILED")
