"""All of a run as one value: what `--json` prints, `--save` keeps, and the picture is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from simulations.bench import figures, machine
from simulations.bench.contenders import Contender
from simulations.bench.figures import Outcome
from simulations.bench.setting import Setting

FORMAT: Final = 1


@dataclass(frozen=True)
class Run:
    """rounds: as far as they have come. missing: contender → why it is not on this machine."""

    setting: Setting
    kinds: Sequence[type[Contender]]
    missing: Mapping[str, str]
    rounds: Sequence[Mapping[str, Outcome]]
    reference: str | None

    @property
    def names(self) -> list[str]:
        return [kind.name for kind in self.kinds]


def of(run: Run, bench: str, command: str, scheduling: Mapping[str, int]) -> dict[str, Any]:
    """Plain values alone. bench: which one it was, "" for the one of all contenders."""
    return {
        "format": FORMAT,
        "bench": bench,
        "date": machine.now(),
        "command": command,
        "machine": machine.describe(),
        "scheduling": dict(scheduling),
        "setting": run.setting.report(),
        "contenders": {
            kind.name: {
                "version": kind.version(),
                "inner": f"IPv{kind.carries(run.setting.inner)}",
                "note": kind.note,
            }
            for kind in run.kinds
        },
        "missing": dict(run.missing),
        "reference": run.reference,
        "summary": figures.summary(run.rounds, run.names, run.reference),
        "failures": figures.failures(run.rounds),
        "rounds": [{name: outcome.report() for name, outcome in each.items()} for each in run.rounds],
    }
