"""The laboratory without root: this program once more, as "root" of a user and network namespace of its own.

There it may make network namespaces, devices and firewall rules, none of which anybody outside sees. It is
still the same user to everything else: files belong to them, and other people's processes are out of reach.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from simulations.lab.errors import UnavailableError
from simulations.lab.namespaces import SBIN

_GUARD = "ZEQNODE_USERNS"
_TUN = Path("/dev/net/tun")
_PROGRAMS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "ethtool": "ethtool",
    "unshare": "util-linux",
}
_NEEDED = 1 << 12 | 1 << 21  # CAP_NET_ADMIN, CAP_SYS_ADMIN
_SWITCHES = (  # sysctl, the value that forbids, the value that allows
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ("user/max_user_namespaces", "0", "10000"),
    ("user/max_net_namespaces", "0", "10000"),
)
_UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--")


def privileged() -> bool:
    """Root, or root of a user namespace: allowed to make network namespaces as it stands."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16) & _NEEDED == _NEEDED
    return False


def available(*, tun: bool = True) -> str | None:
    """None where a laboratory can be made, as root or through a user namespace; else a sentence that says
    what to do.

    tun: real nodes are to run in it, so TUN devices must be openable too."""
    path = _path()
    missing = sorted({package for name, package in _PROGRAMS.items() if not shutil.which(name, path=path)})
    if missing:
        return f"Programs are missing: run `sudo apt install {' '.join(missing)}`."
    if not privileged() and (reason := _userns_refused(path)):
        return reason
    return _tun_refused() if tun else None


def reexec_in_user_namespace() -> None:
    """Return at once where the process is privileged; else replace it by itself inside a user namespace.

    All that it holds in memory is lost, so call it first. Raises UnavailableError."""
    if privileged():
        if os.environ.pop(_GUARD, None):  # we are the one inside: its network has only a loopback, still down
            subprocess.run(
                ["ip", "link", "set", "dev", "lo", "up"], check=True, env=os.environ | {"PATH": _path()}
            )
        return
    if _GUARD in os.environ:
        raise UnavailableError("A user namespace gave no privileges here: run this as root.")
    if reason := available(tun=False):
        raise UnavailableError(reason)
    sys.stdout.flush()
    sys.stderr.flush()
    command = [*_UNSHARE, sys.executable, *sys.orig_argv[1:]]
    os.execvpe(command[0], command, os.environ | {_GUARD: "1", "PATH": _path()})  # noqa: S606


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{SBIN}"


def _userns_refused(path: str) -> str | None:
    attempt = subprocess.run(
        [*_UNSHARE, "ip", "link", "set", "dev", "lo", "up"],
        capture_output=True,
        check=False,
        env=os.environ | {"PATH": path},
    )
    if attempt.returncode == 0:
        return None
    for key, forbids, allows in _SWITCHES:
        switch = Path("/proc/sys", key)
        if switch.exists() and switch.read_text(encoding="ascii").strip() == forbids:
            return (
                "This system gives user namespaces to root only: "
                f"run `sudo sysctl {key.replace('/', '.')}={allows}`, or run this as root."
            )
    said = attempt.stderr.decode(errors="replace").strip()
    return (
        f"A user namespace was refused ({said}; a container's seccomp profile may do so): run this as root."
    )


def _tun_refused() -> str | None:
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"{_TUN} is missing: run `sudo modprobe tun`."
    except PermissionError:
        return f"{_TUN} is closed to users: run `sudo chmod 666 {_TUN}`, or run this as root."
    except OSError as error:
        return f"{_TUN} cannot be opened ({error.strerror}): run `sudo modprobe tun`."
    return None
