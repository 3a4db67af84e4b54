"""What iperf3 and ping say, read; what may be asked of the bench; what processes cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.bench import contenders, processes, traffic, trials
from simulations.bench.contenders.contender import Contender
from simulations.bench.contenders.wireguard import VARIABLE, OldWireGuardGo, WireGuardGo
from simulations.bench.errors import BadRequest, Unmeasured
from simulations.bench.members import GATES, Member, number_of
from simulations.bench.setting import Setting


def said(**end: Any) -> bytes:
    return json.dumps({"start": {}, "end": end}).encode()


def test_iperf3s_figures_are_those_that_arrived() -> None:
    assert traffic.received_gigabits(said(sum_received={"bits_per_second": 2.5e9})) == 2.5
    total = {"packets": 3000, "lost_packets": 1000, "seconds": 2.0}
    assert traffic.received_kilopackets(said(sum=total)) == 1.0


@pytest.mark.parametrize("words", [b"", b"{", b"[]", b'{"start": 1}', b'{"end": 3}', b"null"])
def test_what_cannot_be_read_is_one_sentence(words: bytes) -> None:
    with pytest.raises(Unmeasured, match="nothing that can be read"):
        traffic.received_gigabits(words)


def test_iperf3s_own_words_are_passed_on() -> None:
    with pytest.raises(Unmeasured, match="unable to connect"):
        traffic.received_gigabits(json.dumps({"error": "unable to connect", "end": {}}).encode())


def test_pings_percentiles_and_losses() -> None:
    lines = "\n".join(f"64 bytes from fd99::2: icmp_seq={n} ttl=64 time={n}.5 ms" for n in range(1, 100))
    found = traffic.latency(lines, 200)
    assert (found.p50, found.p99) == (50.5, 99.5)
    assert found.lost == pytest.approx(101 / 200)
    with pytest.raises(Unmeasured):
        traffic.latency("100% packet loss", 3)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_is_one_of_the_values_and_enough_are_below(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = traffic.quantile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered) - 1e-6


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"wire": "string"}, "veth"),
        ({"loss": 0.1}, "--wiring bare"),
        ({"wire": "bare", "loss": 1.5}, "probability"),
        ({"wire": "bare", "loss": float("nan")}, "probability"),
        ({"seconds": 0}, "--seconds"),
        ({"rounds": 0}, "--rounds"),
        ({"congestion": "hope"}, "modprobe"),
    ],
)
def test_settings_that_cannot_be_say_what_can(wrong: dict[str, Any], hint: str) -> None:
    with pytest.raises(BadRequest, match=hint):
        Setting(**wrong)


def test_contenders_and_tests_are_chosen_by_name() -> None:
    names = [kind.name for kind in contenders.chosen("Wireguard-Go, zeqnode-span")]
    assert names == ["zeqnode span", "wireguard-go"]
    assert contenders.chosen("all") == list(contenders.ALL)
    assert list(trials.chosen("udp, tcp")) == ["tcp", "udp"]
    assert set(trials.chosen("all")) == set(trials.TESTS)
    with pytest.raises(BadRequest, match="no contender openvnp"):
        contenders.chosen("openvnp")
    with pytest.raises(BadRequest, match="no test upd"):
        trials.chosen("upd")


def test_the_newest_wireguard_go_is_the_reference() -> None:
    assert contenders.reference_of(["zeqnode", "wireguard-go 2022", "wireguard-go"]) == "wireguard-go"
    assert contenders.reference_of(["zeqnode", "wireguard-go 2022"]) == "wireguard-go 2022"
    assert contenders.reference_of(["zeqnode"]) is None


@pytest.mark.parametrize("kind", contenders.ALL, ids=lambda kind: kind.name)
def test_who_is_not_here_says_what_to_do(kind: type[Contender], monkeypatch: pytest.MonkeyPatch) -> None:
    reason = kind.missing()
    assert reason is None or ":" in reason
    assert kind.version()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("simulations.bench.contenders.contender.SBIN", "")
    if kind.name.startswith(("plain", "zeqnode")):
        assert kind.missing() is None
    else:
        assert "apt install" in (kind.missing() or "")


def test_a_build_of_wireguard_go_is_known_by_its_date(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "wireguard-go"
    program.write_text("#!/bin/sh\necho wireguard-go v0.0.20250522\n")
    program.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(program))
    assert WireGuardGo.program() == str(program)
    assert WireGuardGo.version() == "wireguard-go 20250522"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert WireGuardGo.program() == str(program)  # the system's is new enough
    assert OldWireGuardGo.program() is None


def test_processes_are_counted_with_all_that_they_started() -> None:
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE) as outer:
        deadline = time.monotonic() + 10
        while len(processes.tree([outer.pid])) < 2:
            assert time.monotonic() < deadline
        pids = processes.tree([outer.pid])
        assert pids[0] == outer.pid
        assert processes.cpu_seconds(pids) > 0
        assert processes.pss_bytes([os.getpid()]) > 1 << 20
        outer.communicate(b"\n")
    assert processes.cpu_seconds(pids) == 0  # they are gone


def test_members_are_the_same_to_everybody_and_their_gates_tell_them_apart() -> None:
    one, again = Member("seed", 7), Member("seed", 7)
    assert one.id == again.id
    assert Member("seed", 8).id != one.id
    assert one.gate.subnet_of(GATES)
    packet = bytes(24) + one.gate.network_address.packed
    assert number_of(packet) == 7
