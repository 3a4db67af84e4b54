"""Which attackers a scenario has: made, and let loose by simulations/course.py."""

from __future__ import annotations

from typing import Final

from simulations.attackers import Attack
from simulations.discoverers import Discoverers
from simulations.eclipsers import Eclipse
from simulations.errors import ScenarioError
from simulations.poisoners import Poison
from simulations.population import Population, Species
from simulations.scenario import AttackKind, Scenario
from simulations.sybils import Sybils
from simulations.workload import Workload
from simulations.world import World

_KINDS: Final[dict[AttackKind, type[Attack]]] = {
    AttackKind.ECLIPSE: Eclipse,
    AttackKind.POISON: Poison,
    AttackKind.SYBILS: Sybils,
}


def attack(
    scenario: Scenario, world: World, population: Population, workload: Workload, species: Species
) -> Attack | None:
    """None where nobody attacks. Raises ScenarioError where the nodes are not those that they attack."""
    if scenario.attackers is None:
        return None
    if not isinstance(species, Discoverers):
        raise ScenarioError(f"{scenario.name}: attackers attack nodes of the product alone.")
    kind = _KINDS[scenario.attackers.kind]
    return kind(scenario.attackers, world, population, workload, species, scenario.nodes)
