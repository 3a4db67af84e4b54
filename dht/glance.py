"""Parts of discovery at a glance, for `zeqnode status` and `zeqnode peers`; times in seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dht import endpoints
from dht.calls import Calls
from dht.endpoints import IPV4_BYTES
from dht.link import LinkState
from dht.overlay import Overlay


def discovery(
    overlays: Sequence[Overlay], links: Sequence[LinkState], calls: Calls, counters: Counter[str], now_us: int
) -> dict[str, Any]:
    """All but what is stored."""
    return {
        "families": list(map(family, overlays)),
        "links": [link(each, now_us) for each in links],
        "homes": [endpoints.text(endpoint) for endpoint, _ in calls.homes],
        "lodgers": calls.lodgers,
        "counters": dict(sorted(counters.items())),
    }


def family(overlay: Overlay) -> dict[str, Any]:
    return {
        "family": 4 if overlay.endpoint_bytes == IPV4_BYTES else 6,
        "contacts": overlay.size,
        "serving": overlay.serving,
        "endpoint": endpoints.text(overlay.endpoint) if overlay.endpoint else None,
    }


def link(link: LinkState, now_us: int) -> dict[str, Any]:
    return {
        "endpoint": endpoints.text(link.endpoint),
        "since_s": (now_us - link.since_us) // 1_000_000,
        "eager": link.eager,
        "score": link.score,
    }
