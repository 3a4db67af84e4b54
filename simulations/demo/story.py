"""The demo's story, step by step. Every figure that it shows was measured in this run."""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Final

from crypto.identity import KeyBundle, fingerprint, slug
from simulations.demo import world
from simulations.demo.board import Board, Step, StepFailed
from simulations.demo.capture import Capture, Handshake, first_handshake
from simulations.demo.files import SAMPLE_BYTES, Files
from simulations.demo.happenings import Happenings
from simulations.demo.search import FileWindows, doubts, search
from simulations.demo.transfer import Download
from simulations.demo.world import LINK, MEGABITS, WEB_PORT, Node
from simulations.lab.lab import Lab

FILE_BYTES: Final = 100_000_000
QUICK_FILE_BYTES: Final = 20_000_000
PLAIN, TUNNEL = "no tunnel", "tunnel"
_TICK = 0.02  # s
_PATIENCE = 30.0  # s
_OVER = object()


def steps(size: int) -> list[Step]:
    """All of them, in order; `size` of the file in bytes."""
    return [
        Step("world", "Two hosts and a wire"),
        Step("nodes", "A node on each"),
        Step("plain", "First without a tunnel"),
        Step("join", "Home invites, café joins"),
        Step("handshake", "Post-quantum handshake"),
        Step("ping", "Ping through the tunnel"),
        Step("transfer", f"{size // 1_000_000} MB through the tunnel"),
        Step("kill", "café's node: kill -9", inner=True),
        Step("roam", "café changes its address", inner=True),
        Step("epoch", "all keys replaced", inner=True),
        Step("checksum", "SHA-256 at both ends"),
        Step("search", "The recordings searched"),
        Step("clean", "Everything removed"),
    ]


class Story:
    """`tell` in a laboratory that is not up yet; the caller closes it, ends "clean", and removes `folder`."""

    def __init__(self, board: Board, lab: Lab, folder: Path, size: int) -> None:
        self._board = board
        self._lab = lab
        self._folder = folder
        self._files = Files(folder)
        self._size = size
        self._home = Node(lab.host("home"), "home", folder)
        self._cafe = Node(lab.host("cafe"), "café", folder)
        self._recordings = {
            PLAIN: self._recording("plain.pcap"),
            TUNNEL: self._recording("tunnel.pcap"),
        }

    def tell(self) -> None:
        """Raises StepFailed, or what the laboratory raises; then a step of the board is still running."""
        self._build()
        self._start_nodes()
        with self._recordings[PLAIN]:
            self._go_without_tunnel()
        with self._recordings[TUNNEL]:
            inside = self._join()
            self._look_at_handshake()
            self._ping(inside)
            self._download(inside[0])
        self._compare()
        self._search()

    # ------------------------------------------------------------------ before the file

    def _build(self) -> None:
        with self._board.step("world", "network namespaces, and a bridge between them") as step:
            self._lab.__enter__()
            self._files.make(self._size)
            self._board.cafe_address = self._cafe.host.address(LINK)
            step.figures["megabits_per_second"] = MEGABITS
            step.text = f"{MEGABITS} Mb/s each way, recorded in the middle"

    def _start_nodes(self) -> None:
        with self._board.step("nodes", "`zeqnode run` at home and in the café, each with a TUN") as step:
            nodes = (self._home, self._cafe)
            for node in nodes:
                node.start()
            for node in nodes:
                node.wait_until_running()
                step.figures[node.host.name] = node.command("id")
            step.text = "\n".join(_name(node.shown, node.bundle()) for node in nodes)

    def _go_without_tunnel(self) -> None:
        what = f"{SAMPLE_BYTES // 1_000_000} MB and both identities by plain HTTP"
        with self._board.step("plain", what):
            self._files.make_identities(self._identities)
            world.serve_files(self._home.host, self._files.web, self._folder / "web.log")
            for path in (self._files.sample, self._files.identities):
                self._fetch(self._home.host.address(LINK), path).wait(_PATIENCE)

    def _join(self) -> list[str]:
        """Home's addresses inside, as the café has them: IPv6, IPv4."""
        with self._board.step("join", "`zeqnode invite cafe`, then `zeqnode join zeq://…`") as step:
            invitation = self._home.command("invite", "cafe")["invitation"]
            joined = self._cafe.command("join", invitation)
            inside: list[str] = joined["addresses"]
            step.figures.update(invitation_characters=len(invitation), home=joined)
            step.text = f"home is {inside[0]}\nand {inside[1]} in the café"
            return inside

    def _look_at_handshake(self) -> None:
        with self._board.step("handshake", "as the recording has it") as step:
            seen = self._recorded_handshake()
            took = round(seen.milliseconds, 2)
            step.figures.update(milliseconds=took, datagrams=seen.datagrams, bytes=seen.bytes)
            step.text = f"X25519 + ML-KEM-768, {seen.datagrams} datagrams, {took:.0f} ms"

    def _ping(self, inside: list[str]) -> None:
        with self._board.step("ping", "by `ping`, and from node to node") as step:
            six, four = (world.ping(self._cafe.host, address) for address in inside)
            node = self._cafe.command("ping", "home", "--count", "3", "--interval", "0.1")["min_ms"]
            step.figures.update(ipv6_ms=six, ipv4_ms=four, node_ms=node)
            step.text = f"IPv6 {six:.1f} ms, IPv4 {four:.1f} ms, `zeqnode ping` {node:.1f} ms"

    # ------------------------------------------------------------------ the file

    def _download(self, address: str) -> None:
        with self._board.step("transfer", "HTTP, one request") as step:
            download = self._fetch(f"[{address}]", self._files.whole)
            happenings = Happenings(self._board, self._home, self._cafe, download)
            is_whole = self._size == FILE_BYTES
            self._watch(download, happenings.all() if is_whole else happenings.without_epoch())
            seconds, megabits = download.seconds, self._size * 8 / 1e6
            step.figures.update(bytes=self._size, seconds=round(seconds, 2))
            step.figures["megabits_per_second"] = round(megabits / seconds, 2)
            step.text = f"in {seconds:.0f} s, {megabits / seconds:.1f} Mb/s, one TCP connection"

    def _watch(self, download: Download, happenings: Iterator[None]) -> None:
        """To the end of both; the download ends last, or it was not what they happened to."""
        progress, over = self._board.progress, False
        progress.total = self._size
        most = _PATIENCE + 3 * self._size * 8 / (MEGABITS * 1e6)
        while download.look():
            progress.received, progress.rate = download.received, download.rate
            over = over or next(happenings, _OVER) is _OVER
            if download.seconds > most:
                raise StepFailed(f"the download is not done after {most:.0f} s")
            time.sleep(_TICK)
        progress.received = download.received
        if not over:
            raise StepFailed("the download was over before this was")

    # ------------------------------------------------------------------ after the file

    def _compare(self) -> None:
        with self._board.step("checksum", "of what home sent and of what the café got") as step:
            sent, got = self._files.digests()
            if sent != got:
                raise StepFailed(f"home sent {sent}, the café got {got}")
            step.figures["sha256"] = sent
            step.text = f"equal: {sent[:16]}…"

    def _search(self) -> None:
        with self._board.step("search", "for the file and both identities") as step:
            with self._files.whole.open("rb") as file, _mapped(file.fileno()) as content:
                windows = FileWindows(content)
            step.figures.update(windows=len(windows.windows), longest_gap=windows.longest_gap)
            for name, recording in self._recordings.items():
                self._board.recorded[name] = recording.figures
                self._board.found[name] = dict(search(recording.path.read_bytes(), windows, self._identities))
            self._judge()
            megabytes = self._recordings[TUNNEL].bytes / 1e6
            step.text = f"nothing of either in {megabytes:.0f} MB from the tunnel"

    def _judge(self) -> None:
        if lost := sum(recording.dropped for recording in self._recordings.values()):
            raise StepFailed(f"{lost} frames are missing from the recordings: the machine is too busy")
        if self._recordings[TUNNEL].bytes < self._size:
            raise StepFailed("the recording of the tunnel is smaller than the file: it was made elsewhere")
        if reason := doubts(self._board.found[PLAIN], self._board.found[TUNNEL]):
            raise StepFailed(reason)

    # ------------------------------------------------------------------ tools

    @cached_property
    def _identities(self) -> dict[str, KeyBundle]:
        return {node.host.name: node.bundle() for node in (self._home, self._cafe)}

    def _recording(self, file: str) -> Capture:
        wire = self._lab.link(LINK)
        return Capture(wire, wire.interface("cafe"), self._folder / file)

    def _recorded_handshake(self) -> Handshake:
        """What was sent a moment ago is not on the disk yet."""
        deadline = time.monotonic() + _PATIENCE
        while (found := first_handshake(self._recordings[TUNNEL].path)) is None:
            if time.monotonic() > deadline:
                raise StepFailed("no handshake is in the recording")
            time.sleep(_TICK)
        return found

    def _fetch(self, address: str, path: Path) -> Download:
        """By the café; `address` as it stands in a URL."""
        url = f"http://{address}:{WEB_PORT}/{path.name}"
        return Download(self._cafe.host, url, self._files.got(path), self._folder / "curl.log")


def _mapped(file: int) -> mmap.mmap:
    return mmap.mmap(file, 0, prot=mmap.PROT_READ)


def _name(shown: str, bundle: KeyBundle) -> str:
    """Slug and the first 80 bits of the fingerprint: enough to tell machines apart."""
    return f"{shown} {slug(bundle.machine_id)}~{fingerprint(bundle.machine_id)[:19]}…"
