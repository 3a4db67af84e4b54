"""Results that are kept: a JSON file and a picture for each run, side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from node.errors import NotWritable
from simulations.bench import picture

FOLDER: Final = Path(__file__).parents[1] / "results"


def save(report: Mapping[str, Any], folder: Path = FOLDER) -> list[Path]:
    """What was written. Raises NotWritable."""
    name = name_of(report)
    contents = {f"{name}.json": json.dumps(report, indent=1, ensure_ascii=False) + "\n"}
    if "summary" in report:
        contents[f"{name}.svg"] = picture.svg(report)
    try:
        folder.mkdir(exist_ok=True)
        for file, text in contents.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise NotWritable(
            f"the results cannot be written to {folder} ({error.strerror}); "
            "take --json and a file of your own"
        ) from None
    return [folder / file for file in contents]


def name_of(report: Mapping[str, Any]) -> str:
    """2026-01-31-1234-nic, or with what else was set: 2026-01-31-1234-bare-loss-0.001-bbr."""
    setting = report["setting"]
    words = [str(report["date"]), str(report.get("bench", "")), str(setting.get("wiring", ""))]
    if setting.get("loss"):
        words.append(f"loss {setting['loss']:g}")
    if setting.get("congestion", "cubic") != "cubic":
        words.append(setting["congestion"])
    return re.sub(r"[^a-z0-9.]+", "-", " ".join(word for word in words if word).lower().replace(":", ""))
