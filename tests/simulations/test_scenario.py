"""Scenarios as files: what is read, and the sentence for each thing that cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations import scenario
from simulations.errors import ScenarioError
from simulations.nats import Kind
from simulations.network import Conditions
from simulations.scenario import MINUTE_US, SECOND_US, Attackers, AttackKind, Partition

SIZES = "nodes = 10\nminutes = 5\n"


def test_the_example_of_the_module_is_a_scenario() -> None:
    assert scenario.__doc__ is not None
    _, _, example = scenario.__doc__.partition("\n\n")
    found = scenario.parse(example, "example.toml")
    assert found.name == "example"
    assert found.network == Conditions(10_000, 1_000, 1_000, 4_000)
    assert found.nats.shares == (
        (Kind.FULL_CONE, 100_000),
        (Kind.RESTRICTED, 100_000),
        (Kind.PORT_RESTRICTED, 300_000),
        (Kind.SYMMETRIC, 100_000),
    )
    assert found.nats.timeout_us == 30 * SECOND_US
    assert found.partitions == (Partition(2 * MINUTE_US, 3 * MINUTE_US, 300_000),)
    assert (found.work.churn_ppm, found.work.lookup_us) == (50_000, 5 * MINUTE_US)
    assert found.attackers == Attackers(AttackKind.POISON, 200_000, 0, 1, 20, 60 * SECOND_US, True)
    assert found.criteria == (("lookups_right", 0.995), ("mean_hops", 5.0))


def test_what_is_left_out_has_its_default() -> None:
    found = scenario.parse(SIZES, "least.toml")
    assert (found.seed, found.joining_us, found.criteria) == (1, 60 * SECOND_US, ())
    assert found.network == Conditions()
    assert not found.nats.shares
    assert found.work.offers_per_minute == 0
    assert found.attackers is None


def test_attackers_come_beside_the_nodes() -> None:
    few = scenario.parse(f'{SIZES}[attackers]\nkind = "eclipse"\nshare = 0.05\n', "x.toml").attackers
    many = scenario.parse(f'{SIZES}[attackers]\nkind = "sybils"\nper_node = 40\n', "x.toml").attackers
    assert few is not None
    assert many is not None
    assert (few.among(10), few.among(19), few.among(399)) == (1, 1, 21)
    assert many.among(25) == 1_000


@pytest.mark.parametrize("path", scenario.shipped(), ids=lambda path: path.stem)
def test_the_shipped_ones_are_good_and_say_what_they_show(path: Path) -> None:
    found = scenario.load(path.stem)
    assert found == scenario.load(str(path)) == scenario.load(path.name)
    assert found.about
    assert found.criteria


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nodes = ", "x.toml is not valid TOML"),
        ("", "x.toml: say how large the world is: nodes = 1000 and minutes = 10."),
        ("nodes = 10", "x.toml: say how large the world is"),
        ('nodes = "many"\nminutes = 1', "x.toml: nodes must be a whole number, not 'many'."),
        ("nodes = 1\nminutes = 1", "x.toml: nodes must lie between 2 and 100000, not 1."),
        ("nodes = 5\nminutes = 0", "x.toml: minutes must lie between 1 and 1440, not 0."),
        (SIZES + "seed = -1", "x.toml: seed must lie between 0 and 9223372036854775807, not -1."),
        (SIZES + "speed = 3", "x.toml: unknown key 'speed'; it knows about, nodes, minutes"),
        (SIZES + "network = 3", "x.toml: network must be a table: write [network], not 3."),
        (
            SIZES + "[network]\nloss = 2",
            "x.toml: [network]: loss is a share: give a number from 0 to 1, not 2.",
        ),
        (
            SIZES + '[network]\nloss = "1 %"',
            "x.toml: [network]: loss must be a share from 0 to 1, not '1 %'.",
        ),
        (SIZES + "[network]\nlag = 2", "x.toml: [network]: unknown key 'lag'; it knows loss, duplicate"),
        (
            SIZES + "[network]\njitter_ms = 0.5",
            "x.toml: [network]: jitter_ms must be a whole number from 0 to",
        ),
        (
            SIZES + "[nats]\nsymmetric = 0.5\nfull_cone = 0.5",
            "x.toml: [nats]: the shares must leave some nodes public: let their sum be below 1.",
        ),
        (SIZES + "[nats]\nhairpin = 1", "x.toml: [nats]: hairpin must be true or false, not 1."),
        (SIZES + "[nats]\nhosts = 0", "x.toml: [nats]: hosts must lie between 1 and 250, not 0."),
        (SIZES + "partitions = [3]", "x.toml: partitions must be tables: write [[partitions]]."),
        (SIZES + "partitions = 3", "x.toml: partitions must be tables: write [[partitions]], not 3."),
        (
            SIZES + "[[partitions]]\nat_minute = 9\nshare = 0.1",
            "x.toml: [partitions 1]: at_minute must lie between 0 and 4, not 9.",
        ),
        (
            SIZES + "[[partitions]]\nat_minute = 1",
            "x.toml: [partitions 1]: say how many of the nodes are in the smaller part: share = 0.3.",
        ),
        (
            SIZES + "[[partitions]]\nminutes = 2\nshare = 0.1\n[[partitions]]\nat_minute = 1\nshare = 0.1",
            "x.toml: [partitions 2]: it begins before the one before it has ended: let one follow the other.",
        ),
        (SIZES + "[work]\nchurn_per_minute = true", "x.toml: [work]: churn_per_minute must be a share"),
        (SIZES + "attackers = 3", "x.toml: attackers must be a table: write [attackers], not 3."),
        (
            SIZES + "[attackers]\nshare = 0.2",
            "x.toml: [attackers]: say what they do: kind = one of eclipse, poison, sybils.",
        ),
        (SIZES + '[attackers]\nkind = "rude"\nshare = 0.2', "x.toml: [attackers]: say what they do: kind ="),
        (
            SIZES + '[attackers]\nkind = "poison"',
            "x.toml: [attackers]: say how many there are: share = 0.2 of all, or per_node = 40.",
        ),
        (
            SIZES + '[attackers]\nkind = "poison"\nshare = 0.2\nper_node = 3',
            "x.toml: [attackers]: say how many there are",
        ),
        (
            SIZES + '[attackers]\nkind = "poison"\nshare = 1',
            "x.toml: [attackers]: say how many there are",
        ),
        (
            "nodes = 2000\nminutes = 5\n" + '[attackers]\nkind = "sybils"\nper_node = 1000',
            "x.toml: [attackers]: 2000000 attackers are too many: at most 100000.",
        ),
        (
            SIZES + '[attackers]\nkind = "sybils"\nper_node = 4\nper_network = 0',
            "x.toml: [attackers]: per_network must lie between 1 and 250, not 0.",
        ),
        (
            SIZES + '[attackers]\nkind = "sybils"\nper_node = 4\npatience = 3',
            "x.toml: [attackers]: unknown key 'patience'; it knows kind, share, per_node",
        ),
        (
            SIZES + "[criteria]\nhappiness = 1",
            "x.toml: [criteria]: unknown key 'happiness'; it knows lookups",
        ),
        (
            SIZES + '[criteria]\nmean_hops = "few"',
            "x.toml: [criteria]: mean_hops must be a number, not 'few'.",
        ),
    ],
)
def test_a_mistake_is_named_with_what_to_do(text: str, sentence: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario.parse(text, "x.toml")
    assert str(caught.value).startswith(sentence)
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(
        ScenarioError, match=r"cannot be read .* take one of eclipse, half-hour, market, nats"
    ):
        scenario.load("nothing")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="is not a text file: save it as UTF-8"):
        scenario.load(str(tmp_path / "binary.toml"))


def test_a_file_here_goes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.toml").write_text(SIZES)
    monkeypatch.chdir(tmp_path)
    assert scenario.load("small.toml").nodes == 10


def test_the_command_line_changes_sizes_within_bounds() -> None:
    found = scenario.parse(SIZES, "x.toml")
    assert found.changed(None, None, None) == found
    changed = found.changed(20, 7, 9)
    assert (changed.nodes, changed.minutes, changed.seed) == (20, 7, 9)
    with pytest.raises(ScenarioError, match="nodes must lie between"):
        found.changed(1, None, None)
