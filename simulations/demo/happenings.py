"""What is done to the tunnel while a file goes through it: a kill -9, a new address, new keys.

Each of them is a generator; at every `yield` it lets the one who watches the download go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from simulations.demo.board import Board, Step, StepFailed
from simulations.demo.transfer import Download
from simulations.demo.world import CAFE_MOVES_TO, LINK, Node

EPOCH_SECONDS = 46.6  # 60 zeqonds
_KILL_AFTER = 3.0  # s of download
_ROAM_AFTER = 3.0  # s after the killed one is back
_GIVE_UP = 20.0  # s
_LOOK = 0.1  # s between two questions to a node
_AFTERMATH = 1.0  # s in which a pause may still begin


@dataclass
class Happenings:
    """Ends steps "kill", "roam" and "epoch" of the board; raises StepFailed."""

    board: Board
    home: Node
    cafe: Node
    download: Download

    def all(self) -> Iterator[None]:
        """The keys change by themselves, so long after the handshake that the other two fit in between."""
        yield from _pass(_KILL_AFTER)
        yield from self._kill()
        back = time.monotonic()
        step = self.board.begin("epoch", f"{EPOCH_SECONDS} s after the handshake")
        before = self._epochs()
        yield from _pass(_ROAM_AFTER)
        yield from self._roam()
        yield from self._change_epoch(step, before, back)

    def without_epoch(self) -> Iterator[None]:
        self.board.leave_out("epoch", f"comes {EPOCH_SECONDS} s after a handshake; not in --quick")
        yield from _pass(_KILL_AFTER)
        yield from self._kill()
        yield from _pass(_ROAM_AFTER)
        yield from self._roam()

    def _kill(self) -> Iterator[None]:
        then, killed = time.monotonic(), self.cafe.pid
        step = self.board.begin("kill", f"process {killed} is gone, a new one starts")
        self.cafe.kill()
        self.cafe.start()
        yield from _wait_for(lambda: (self.cafe.peer() or {}).get("state") == "connected", "no new tunnel")
        yield from self._growth()
        silence = self.download.silence_since(then)
        step.figures.update(silence_s=round(silence, 2), killed_pid=killed, new_pid=self.cafe.pid)
        self.board.done(step, f"back after {silence:.1f} s, the download goes on")

    def _roam(self) -> Iterator[None]:
        then, old = time.monotonic(), self.board.cafe_address
        was = self._endpoint()
        step = self.board.begin("roam", f"{old} → {CAFE_MOVES_TO}")
        self.cafe.host.set_address(LINK, CAFE_MOVES_TO)
        self.board.cafe_address = CAFE_MOVES_TO
        yield from _wait_for(
            lambda: self._endpoint().startswith(f"{CAFE_MOVES_TO}:"), f"home still sends to {was}"
        )
        noticed = time.monotonic() - then
        yield from self._growth()
        yield from _pass(_AFTERMATH)
        silence = self.download.silence_since(then)
        step.figures.update(silence_s=round(silence, 2), noticed_s=round(noticed, 2))
        step.figures.update(old_endpoint=was, new_endpoint=self._endpoint())
        self.board.done(step, f"{old} → {CAFE_MOVES_TO}, {_pause(silence)}")

    def _change_epoch(self, step: Step, before: dict[str, int], since: float) -> Iterator[None]:
        """`since`: when the session of `before` was found to be up."""
        while not all(epoch > before[name] for name, epoch in self._epochs().items()):
            left = EPOCH_SECONDS - (time.monotonic() - since)
            step.text = f"in {left:.0f} s" if left > 0 else "now"
            if left < -_GIVE_UP:
                raise StepFailed("the epoch does not change")
            yield from _pass(_LOOK)
        then = time.monotonic() - 2 * _LOOK
        yield from _pass(_AFTERMATH)
        after, silence = self._epochs(), self.download.silence_since(then)
        step.figures.update(before=before, after=after, silence_s=round(silence, 2))
        self.board.done(step, f"epoch {before['home']} → {after['home']}, {_pause(silence)}")

    def _endpoint(self) -> str:
        """Where home sends to."""
        return str((self.home.peer() or {}).get("endpoint"))

    def _epochs(self) -> dict[str, int]:
        """Of both ends. Raises StepFailed where one has no session."""
        found = {}
        for node in (self.home, self.cafe):
            epoch = (node.peer() or {}).get("epoch")
            if epoch is None:
                raise StepFailed(f"{node.shown} has no session any more")
            found[node.host.name] = epoch
        return found

    def _growth(self) -> Iterator[None]:
        """Until something more arrives."""
        before = self.download.received
        yield from _wait_for(lambda: self.download.received > before, "nothing arrives any more")


def _wait_for(condition: Callable[[], bool], failure: str) -> Iterator[None]:
    deadline = time.monotonic() + _GIVE_UP
    while not condition():
        if time.monotonic() > deadline:
            raise StepFailed(f"{failure}, {_GIVE_UP:.0f} s later")
        yield from _pass(_LOOK)


def _pass(seconds: float) -> Iterator[None]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield


def _pause(silence: float) -> str:
    return f"silent for {silence:.2f} s" if silence else "without a pause"
