"""zeqnode as people run it: two real nodes (`zeqnode run`), introduced by an invitation, in its variants."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import trio

from node import control
from node.errors import NotRunning, UserError
from simulations.bench.contenders.contender import Contender
from simulations.bench.errors import Unmeasured
from simulations.bench.setting import SIDES, Side
from simulations.bench.wiring import OTHER, Pair

OFFLOADS = ("uso", "tso", "vnet_hdr", "udp_segment", "udp_gro")


def ask(state: Path, operation: str, **arguments: Any) -> dict[str, Any]:
    """Of the node that runs on this state directory. Raises UserError."""
    return trio.run(partial(control.call, state / control.SOCKET_NAME, operation, **arguments))


def answers(state: Path) -> bool:
    """Whether a node runs there, and is ready."""
    with suppress(NotRunning):
        ask(state, "status")
        return True
    return False


class Zeqnode(Contender):
    """engine: the section of that name in the configuration; empty is what is shipped."""

    name = "zeqnode"
    engine: ClassVar[Mapping[str, object]] = {}

    @classmethod
    def version(cls) -> str:
        return f"zeqnode {version('zeqnode')}"

    def prepare(self, pair: Pair) -> None:
        for side in SIDES:
            self._config(side).write_text(self._toml(side), encoding="utf-8")
        self._run(pair)
        try:
            invitation = self.ask("a", "invite", name="b")["invitation"]
            self.ask("b", "join", invitation=invitation)
            self._addresses = {side: self._peer(OTHER[side])[f"address{self.family}"] for side in SIDES}
        except UserError as error:
            raise Unmeasured(f"{self.name} does not join: {error}") from None
        finally:
            self.stop()

    def start(self, pair: Pair) -> None:
        for side in SIDES:
            argv: list[str | Path] = [sys.executable, "-m", "node", "run", "--config", self._config(side)]
            self.launch(pair, side, argv)

    def address(self, side: Side) -> str:
        return str(self._addresses[side])

    def ask(self, side: Side, operation: str, **arguments: Any) -> dict[str, Any]:
        """Of the running node. Raises UserError."""
        return ask(self.folder / side, operation, **arguments)

    def handshake_age(self) -> float | None:
        age = self._peer("a")["last_handshake_s"]
        return None if age is None else float(age)

    def _run(self, pair: Pair) -> None:
        """Started, and answering."""
        self.start(pair)
        for side in SIDES:
            self.wait(partial(answers, self.folder / side), "the start of its node")

    def _peer(self, side: Side) -> dict[str, Any]:
        """The other side, as that one has it."""
        found: dict[str, Any] = self.ask(side, "status")["peers"][0]
        return found

    def _config(self, side: Side) -> Path:
        return self.folder / f"{side}.toml"

    def _toml(self, side: Side) -> str:
        node = {"name": side, "state": str(self.folder / side), "log": "warning"}
        sections: dict[str, Mapping[str, object]] = {
            "node": node,
            "engine": self.engine,
            "api": {"enabled": False},  # the others have none; it takes 20 MiB
        }
        return "".join(
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
            for name, section in sections.items()
            if section
        )


class Span(Zeqnode):
    name = "zeqnode span"
    note = "one AEAD for a super-packet"
    engine: ClassVar[Mapping[str, object]] = {"mode": "span"}


class Segments(Zeqnode):
    name = "zeqnode segments"
    note = "one AEAD for a datagram"
    engine: ClassVar[Mapping[str, object]] = {"mode": "segments"}


class TwoQueues(Zeqnode):
    name = "zeqnode two queues"
    engine: ClassVar[Mapping[str, object]] = {"queues": 2}


class OneQueue(Zeqnode):
    name = "zeqnode one queue"
    engine: ClassVar[Mapping[str, object]] = {"queues": 1}


class Rekeying(Zeqnode):
    name = "zeqnode, new keys each 5 s"
    engine: ClassVar[Mapping[str, object]] = {"rekey_seconds": 5}


class NoTrains(Zeqnode):
    name = "zeqnode no trains"
    note = "without UDP_SEGMENT and UDP_GRO"
    engine: ClassVar[Mapping[str, object]] = {"without": ["udp_segment", "udp_gro"]}


class NoOffloads(Zeqnode):
    name = "zeqnode no offloads"
    engine: ClassVar[Mapping[str, object]] = {"without": list(OFFLOADS)}
