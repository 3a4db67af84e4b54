"""One download by curl, watched while it runs."""

from __future__ import annotations

import subprocess
import time
from collections import deque
from pathlib import Path

from simulations.demo.board import StepFailed
from simulations.lab.lab import Host

_RATE_OVER = 2.0  # s
_SILENCE = 0.05  # s without a new byte that count as a gap; a full queue of the wire holds as much


class Silences:
    """The times in which nothing arrived, from (time, bytes) as they are looked at."""

    def __init__(self, now: float) -> None:
        self._grown = now
        self._size = 0
        self._gaps: list[tuple[float, float]] = []

    def look(self, now: float, size: int) -> None:
        if size > self._size:
            if now - self._grown >= _SILENCE:
                self._gaps.append((self._grown, now))
            self._grown, self._size = now, size

    def longest_since(self, then: float, now: float) -> float:
        """Seconds, 0 without a gap; one that began before `then` and ended after counts whole, and so does
        one that lasts until `now`."""
        gaps = [end - start for start, end in [*self._gaps, (self._grown, now)] if end >= then]
        return max((gap for gap in gaps if gap >= _SILENCE), default=0.0)


class Download:
    """curl on `host`, one request on one connection. `received` bytes are in the file; call `look` often."""

    def __init__(self, host: Host, url: str, target: Path, log: Path) -> None:
        self.received = 0
        self.began = time.monotonic()
        self._target = target
        self._log = log
        self._seen: deque[tuple[float, int]] = deque([(self.began, 0)])
        self._silences = Silences(self.began)
        words = ["curl", "--silent", "--show-error", "--fail", "--no-buffer", "--globoff", "--noproxy", "*"]
        self._process = host.popen([*words, "--output", str(target), url], log=log)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Mb/s of the last two seconds."""
        (then, before), (now, after) = self._seen[0], self._seen[-1]
        return (after - before) * 8 / 1e6 / (now - then) if now > then else 0.0

    def look(self) -> bool:
        """Whether it still runs; raises StepFailed with curl's words if it went wrong."""
        ended = self._process.poll()
        now = time.monotonic()
        self.received = self._target.stat().st_size if self._target.exists() else 0
        self._silences.look(now, self.received)
        self._seen.append((now, self.received))
        while now - self._seen[0][0] > _RATE_OVER:
            self._seen.popleft()
        if ended:
            said = self._log.read_text(encoding="utf-8", errors="replace").strip()
            raise StepFailed(f"curl ended with exit code {ended}: {said or 'it gave no reason'}")
        return ended is None

    def silence_since(self, then: float) -> float:
        """The longest time without a new byte, in seconds."""
        return self._silences.longest_since(then, time.monotonic())

    def wait(self, seconds: float) -> None:
        """To the end. Raises StepFailed after so many seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise StepFailed(f"curl is not done after {seconds:.0f} s") from None
        self.look()
