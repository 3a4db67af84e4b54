"""`zeqnode bench`: ours beside what people would pick instead, on the same wire and in the same run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from simulations.bench import contenders, crypto, trials, vouchers
from simulations.bench.contenders import Contender, ours
from simulations.bench.runner import Json, Save, run
from simulations.bench.setting import Family, Setting, Wire

command = App(name="bench", help_format="plaintext")
command.command(crypto.command, name="crypto")
command.command(vouchers.command, name="vouchers")


@command.default
def bench(
    *,
    only: str = "",
    rounds_: Annotated[int, Parameter(name="--rounds")] = 3,
    seconds: int = 2,
    wiring: Wire = "nic",
    loss: float = 0.0,
    tests: str = "",
    inner: Family = 6,
    congestion: str = "cubic",
    as_json: Json = False,
    save: Save = False,
) -> int:
    """Measure zeqnode beside the other tunnels that are on this machine.

    Two hosts in network namespaces and one wire; each contender carries the same
    traffic over it, in turns, and the table has the medians and the ratios to
    wireguard-go. Plain `zeqnode bench` takes about eight minutes, and removes all
    that it made. Contenders that are not here are named, with what to do.

    For example:

        sudo zeqnode bench
        sudo zeqnode bench --only zeqnode,wireguard-go --rounds 9 --save
        sudo zeqnode bench --wiring bare --loss 0.01 --congestion bbr --tests tcp
        sudo zeqnode bench --wiring home --seconds 10 --tests tcp,back

    Parameters
    ----------
    only
        Contenders, with commas between; or all.
    rounds_
        How often each one has its turn.
    seconds
        Of each stream, after a second of warming up.
    wiring
        nic: a wire as between two network cards; veth: trains of packets cross it
        whole; bare: no GSO and no GRO; home: 100 Mb/s, 20 ms, 0.5 % loss.
    loss
        Probability of each datagram's loss, each way; with --wiring bare.
    tests
        Of ping, tcp, back, tcp4, back4, udp, loaded, memory, idle; or all.
    inner
        The family of the traffic inside the tunnel.
    congestion
        Of the TCP inside, as bbr.
    """
    setting = Setting(wiring, loss, inner, seconds, rounds_, congestion)
    wanted, named = contenders.chosen(only), trials.chosen(tests)
    return run("", wanted, named, setting, as_json=as_json, save=save)


@command.command
def queues(
    *,
    rounds_: Annotated[int, Parameter(name="--rounds")] = 9,
    seconds: int = 3,
    wiring: Wire = "nic",
    as_json: Json = False,
    save: Save = False,
) -> int:
    """Measure two TUN queues, each with a process of its own, beside one.

    The two take turns; the ratios are those of each pair of turns.

    For example:

        sudo zeqnode bench queues --rounds 15

    Parameters
    ----------
    rounds_
        How often each one has its turn.
    seconds
        Of each stream, after a second of warming up.
    wiring
        As of `zeqnode bench`.
    """
    setting = Setting(wiring, seconds=seconds, rounds=rounds_)
    wanted: list[type[Contender]] = [ours.OneQueue, ours.TwoQueues]
    tests = trials.chosen("tcp,back,tcp4,back4,udp")
    return run("queues", wanted, tests, setting, ours.OneQueue.name, as_json=as_json, save=save)


@command.command
def peers(
    *,
    rounds_: Annotated[int, Parameter(name="--rounds")] = 3,
    seconds: int = 5,
    wiring: Wire = "nic",
    as_json: Json = False,
    save: Save = False,
) -> int:
    """Measure a node with 1,000 peers beside one with 50, and one with one.

    The peers are real identities with sessions of their own, in one process on
    the other side. One stream of one peer while all others are idle; then 64
    streams at once, each of another peer, until all peers had their turn; then
    nothing at all. "first byte" is when the last peer has its session.

    For example:

        sudo zeqnode bench peers --rounds 5

    Parameters
    ----------
    rounds_
        How often each one has its turn.
    seconds
        Of each measurement, at least.
    wiring
        As of `zeqnode bench`.
    """
    from simulations.bench import throng

    setting = Setting(wiring, seconds=seconds, rounds=rounds_)
    wanted: list[type[Contender]] = [throng.OnePeer, throng.FiftyPeers, throng.ThousandPeers]
    tests = {"one": throng.one_active, "many": throng.all_active, **trials.chosen("idle,memory")}
    return run("peers", wanted, tests, setting, throng.OnePeer.name, as_json=as_json, save=save)


@command.command
def rekey(
    *,
    rounds_: Annotated[int, Parameter(name="--rounds")] = 5,
    seconds: int = 15,
    wiring: Wire = "nic",
    as_json: Json = False,
    save: Save = False,
) -> int:
    """Measure new keys every five seconds beside those every two minutes.

    What a handshake costs is the difference of the two in CPU time while there is
    only a ping now and then; what it disturbs is the ratio of their throughputs.

    For example:

        sudo zeqnode bench rekey --rounds 9

    Parameters
    ----------
    rounds_
        How often each one has its turn.
    seconds
        Of each stream, after a second of warming up.
    wiring
        As of `zeqnode bench`.
    """
    setting = Setting(wiring, seconds=seconds, rounds=rounds_)
    wanted: list[type[Contender]] = [ours.Zeqnode, ours.Rekeying]
    return run(
        "rekey", wanted, trials.chosen("tcp,trickle"), setting, ours.Zeqnode.name, as_json=as_json, save=save
    )


@command.command
def flood(*, seconds: float = 12.0, as_json: Json = False) -> int:
    """Measure how many forged first messages a node refuses in a second of one core.

    A node's socket and core on loopback, and a flooder on another core. The rate is
    by the node's own CPU time, so that a slow flooder makes it no better.

    For example:

        zeqnode bench flood --seconds 30

    Parameters
    ----------
    seconds
        How long to measure, roughly.
    """
    from simulations.bench import flood as measuring

    found = measuring.measure_flood(seconds)
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
        return 0
    table = Table("forged first message", "read", "refused per second", title="On one core of this machine")
    for each in found:
        read = "in trains" if each.joined else "one by one"
        table.add_row(each.kind, read, f"{each.per_second:,.0f}")
    Console().print(table)
    return 0
