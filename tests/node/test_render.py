"""Answers as text: units, columns, and the status page in every state of a peer."""

from __future__ import annotations

from typing import Any

import pytest

from node import render


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0 s"),
        (0.9, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (3600, "1 h"),
        (3659, "1 h"),
        (7500, "2 h 5 min"),
        (86_400 * 4 + 3600 * 3 + 59, "4 d 3 h"),
    ],
)
def test_durations_have_two_units(seconds: float | None, text: str) -> None:
    assert render.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1500, "1.5 kB"),
        (9949, "9.9 kB"),
        (9950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (20_400_000, "20 MB"),
        (3 * 10**15, "3000 TB"),
    ],
)
def test_sizes_are_decimal(count: int, text: str) -> None:
    assert render.size(count) == text


def test_columns_line_up_and_end_without_blanks() -> None:
    assert render.columns([("A", "LONG", "N"), ("aaa", "b", "12"), ("a", "", "")], frozenset({2})) == [
        "A    LONG   N",
        "aaa  b     12",
        "a",
    ]


def test_settings_are_nearly_toml() -> None:
    values = {
        "node": {"name": "home", "x": None},
        "peers": {"cafe": {"keepalive": True, "endpoints": ["é:1"]}},
    }
    assert render.settings(values) == [
        'node.name = "home"',
        "node.x = not set",
        "peers.cafe.keepalive = true",
        'peers.cafe.endpoints = ["é:1"]',
    ]


def peer(state: str, **changed: Any) -> dict[str, Any]:
    known = {
        "name": "cafe",
        "state": state,
        "address6": "fd5a::2",
        "address4": "198.18.0.2",
        "fingerprint": "f",
    }
    unknown = dict.fromkeys(("endpoint", "path", "since_s", "last_heard_s", "rtt_ms", "why"))
    return {**known, **unknown, "sent_bytes": 0, "received_bytes": 0, **changed}


def engine(**changed: Any) -> dict[str, Any]:
    tun, udp = {"vnet_hdr": True, "tso": True, "uso": True}, {"segment": True, "gro": True}
    return {"queues": 1, "mode": "auto", "restarts": 0, "tun": tun, "udp": udp, **changed}


def page(*peers: dict[str, Any], verbose: bool = False, **changed: Any) -> str:
    answer = {
        "machine": {"name": "home", "slug": "ZEQ07", "fingerprint": "f", "version": "1", "uptime_s": 1},
        "interface": {"name": "zeq0", "mtu": 1404, "addresses": ["fd5a::1"]},
        "listen": {"port": 51777, "addresses": []},
        "peers": list(peers),
        "invitations_open": 0,
        "counters": {},
        "engine": engine(),
    }
    return render.status(answer | changed, verbose=verbose).plain


def test_a_machine_without_peers_is_told_how_to_get_one() -> None:
    assert page().endswith("No peers yet. Invite one: sudo zeqnode invite NAME")
    assert "UDP 51777: no address" in page()


@pytest.mark.parametrize(
    ("state", "word"),
    [("connected",) * 2, ("connecting",) * 2, ("idle",) * 2, ("unreached", "not reached"), ("down",) * 2],
)
def test_every_state_has_a_word_and_the_reason_stands_in_full(state: str, word: str) -> None:
    why = "nothing answers there; " + "is it on? " * 20
    text = page(peer(state, why=why, endpoint="192.0.2.1:1"))
    assert word in text
    assert f"cafe: {why}" in text
    assert "last at 192.0.2.1:1" in text


def test_unknown_values_are_dashes_and_known_ones_have_units() -> None:
    assert page(peer("idle")).splitlines()[-2].split() == [
        "cafe",
        "idle",
        "198.18.0.2",
        *"–––",
        *("0 B " * 2).split(),
    ]
    live = peer("connected", since_s=61, last_heard_s=2, rtt_ms=1.26, received_bytes=1500, sent_bytes=20_000)
    row, inside = page(live | {"path": "direct", "endpoint": "192.0.2.1:1"}).splitlines()[-2:]
    assert row.endswith("1 min 1 s    2 s  1.3 ms  1.5 kB  20 kB")
    assert inside.strip() == "fd5a::2  direct, 192.0.2.1:1"


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, "1 queue, all offloads"),
        (
            {"queues": 4, "mode": "segments", "restarts": 1},
            "4 queues, segments only, 1 restart, all offloads",
        ),
        (
            {"queues": 2, "udp": {"segment": True, "gro": False}},
            "2 queues; without: UDP_GRO (forced by the configuration or refused by this kernel)",
        ),
        (
            {
                "restarts": 2,
                "tun": dict.fromkeys(("vnet_hdr", "tso", "uso"), False),
                "udp": dict.fromkeys(("segment", "gro"), False),
            },
            "1 queue, 2 restarts; without: vnet_hdr, TSO, USO, UDP_SEGMENT, UDP_GRO"
            " (forced by the configuration or refused by this kernel)",
        ),
    ],
)
def test_the_data_path_is_one_line(changed: dict[str, Any], line: str) -> None:
    assert f"\n  data path    {line}\n" in page(engine=engine(**changed))


def test_a_node_of_the_version_before_has_no_data_path_to_show() -> None:
    assert "\n  data path    –\n" in page(engine=None)


def test_verbose_adds_what_was_refused() -> None:
    details = peer("connected", epoch=3, payload=1200, behind_nat=True, networks=["10.0.0.0/8"])
    text = page(details, verbose=True, counters={"mac1": 12, "replay": 3})
    assert "epoch 3, payload 1200, behind NAT yes" in text
    assert "10.0.0.0/8" in text
    quick = page(peer("connected", mode="span", loss=0.00123, payload=1200), verbose=True)
    assert "payload 1200, mode span, loss 0.12%" in quick
    assert "loss" not in page(peer("connected", mode="segments", loss=None), verbose=True)
    assert "  mac1    12\n  replay   3" in text
    assert "Nothing was refused." in page(verbose=True)
    assert "mac1" not in page(counters={"mac1": 12})


MESH = {
    "enabled": True,
    "offer": None,
    "families": [{"family": 4, "contacts": 2, "serving": True, "endpoint": "192.0.2.1:1"}],
    "homes": [],
    "lodgers": 0,
    "links": [],
    "records": 1,
    "offers": 0,
    "counters": {"token refused": 5, "replay": 1},
}


def test_discovery_is_a_few_lines_and_its_refusals_stand_with_the_others() -> None:
    text = page(discovery=MESH, verbose=True, counters={"replay": 3})
    assert "discovery\n  IPv4         2 nodes known, serves others, 192.0.2.1:1\n" in text
    assert "gossip       0 neighbours; 1 record kept, 0 offers known" in text
    assert "  replay         4\n  token refused  5" in text
    offered = page(discovery=MESH | {"offer": {"per_gb": 50}})
    assert "offered as a relay for 50 ZEQ per GB: zeqnode relay" in offered
    assert page(discovery={"enabled": False}).endswith("Discovery is off.")


@pytest.mark.parametrize(
    ("count", "words"), [(0, None), (1, "1 open invitation:"), (2, "2 open invitations:")]
)
def test_open_invitations_are_counted(count: int, words: str | None) -> None:
    assert (words or "nothing of it") in page(invitations_open=count) + "nothing of it"
    assert ("invitation:" in page(invitations_open=count)) == (count == 1)


def test_ping_without_answers_has_no_times() -> None:
    summary = render.ping_summary("cafe", [{"seq": 1, "error": "switched off"}])
    assert (summary["loss"], summary["min_ms"], summary["avg_ms"]) == (1, None, None)
    assert render.ping_line(summary) == "1 sent, 0 back, 100% lost"
    assert render.ping_summary("cafe", [])["loss"] is None
