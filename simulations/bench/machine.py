"""What a figure is worth depends on: the machine, its kernel, the versions. No name and no path of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cryptography
from cryptography.hazmat.backends.openssl.backend import backend

from simulations.bench.contenders.contender import first_line

_CPU_FLAGS = ("aes", "vaes", "avx2", "avx512f", "sha_ni")  # those that the ciphers ask for


def describe() -> dict[str, Any]:
    cpu = _cpu()
    return {
        "cpu": cpu.get("model name", platform.processor() or "?"),
        "cpu_flags": [flag for flag in _CPU_FLAGS if flag in cpu.get("flags", "").split()],
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "architecture": platform.machine(),
        "virtual": "hypervisor" in cpu.get("flags", "").split(),
        "kernel": platform.release(),
        "system": _system(),
        "load": [round(each, 2) for each in os.getloadavg()],
        "python": platform.python_version(),
        "cryptography": cryptography.__version__,
        "openssl": backend.openssl_version_text(),
        "iperf3": " ".join(first_line("iperf3", "--version").split()[:2]),
    }


def text(machine: dict[str, Any]) -> str:
    """In a line."""
    kind = "virtual " if machine["virtual"] else ""
    return (
        f"{machine['cpu']}, {machine['cores']} {kind}cores, Linux {machine['kernel']}, "
        f"Python {machine['python']}, cryptography {machine['cryptography']}"
    )


def now() -> str:
    """The date and the minute, UTC: 2026-01-31 12:34."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")


def command(words: Sequence[str]) -> str:
    """As a person types it: without where the program lies."""
    return " ".join(["zeqnode", *words])


def _cpu() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "?"
