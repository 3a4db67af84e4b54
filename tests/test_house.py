"""The rules of the house that no other tool checks (CONTRIBUTING.md says why they are)."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("node", "dht", "crypto", "tun", "simulations")
FOLDERS = {*PACKAGES, "tests", ".ci"}
FILES = {
    *("pyproject.toml", "Makefile", "LICENSE", ".gitignore"),
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
}
GENERATED = {".git", "__pycache__", "dist", ".hypothesis"}
MODULE_LINES = 350
HOT_LOOP = "tun/plane.py"  # in one file, for who reads how a packet goes; measured in simulations/results
HOT_LOOP_LINES = 600
DOCUMENTS = sorted(ROOT.glob("*.md"))


def _files() -> Iterator[Path]:
    """Every file of the repository, as far as one can tell without git."""
    yield from (path for path in ROOT.iterdir() if path.is_file())
    for folder in sorted(FOLDERS):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _modules() -> list[Path]:
    return [path for path in _files() if path.suffix == ".py"]


def _commands(document: Path) -> Iterator[list[str]]:
    """The words of every command in the shell blocks of a document, without `sudo` and settings."""
    for block in re.findall(r"^```sh\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            while words and (words[0] == "sudo" or re.match(r"\w+=", words[0])):
                words.pop(0)
            if words:
                yield words


def _documented(program: str) -> list[str]:
    """The first arguments that the documents give to a program, in blocks or in a sentence."""
    inline = re.compile(rf"`(?:sudo )?{program} ([a-z-]+)")
    found = {name for path in DOCUMENTS for name in inline.findall(path.read_text())}
    found |= {
        words[1] for path in DOCUMENTS for words in _commands(path) if words[0] == program and words[1:]
    }
    assert found, f"no document shows {program}"
    return sorted(found)


def test_top_level_is_fixed() -> None:
    ignored = re.compile(r"\.venv.*|\..*_cache|.*\.egg-info")
    found = {path.name for path in ROOT.iterdir() if not ignored.fullmatch(path.name)} - GENERATED
    assert found <= FOLDERS | FILES, f"new at the top level: {sorted(found - FOLDERS - FILES)}"
    assert found >= FOLDERS | FILES, f"gone from the top level: {sorted((FOLDERS | FILES) - found)}"


def test_no_path_of_one_machine_is_written_down() -> None:
    homes = "|".join(("root", "work", "home", "Users"))  # apart, so that this file does not match itself
    pattern = re.compile(rf"(?<![\w.:/$}})-])/({homes})/\w")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in _files()
        if path.suffix != ".png"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path: Path) -> None:
    """Loading a pickle runs whatever its author wrote."""
    dangerous = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle"}
    for statement in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            names = [statement.module or ""]
        assert not dangerous & {name.partition(".")[0] for name in names}


def test_modules_are_short() -> None:
    modules = [path for path in _modules() if path.relative_to(ROOT).parts[0] != "tests"]
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules}
    assert long.pop(HOT_LOOP) <= HOT_LOOP_LINES
    assert not {name: lines for name, lines in long.items() if lines > MODULE_LINES}


def test_every_package_is_typed_and_built() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(PACKAGES)
    assert not [package for package in PACKAGES if not (ROOT / package / "py.typed").is_file()]
    assert not list((ROOT / "tests").rglob("__init__.py")), "tests/x/__init__.py would hide the package x"


def test_changelog_knows_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^## \[?{re.escape(version)}\]?", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text())
    assert not [target for target in targets if not (document.parent / target).exists()]


@pytest.mark.parametrize("target", _documented("make"))
def test_documented_make_targets_exist(target: str) -> None:
    question = subprocess.run(["make", "-qs", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert question.returncode in (0, 1), question.stderr


@pytest.mark.parametrize("name", _documented("zeqnode"))
def test_documented_commands_exist(name: str, tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "node", name, "--help"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    has_own_commands = " COMMAND" in answer.stdout.partition("\n")[0]
    assert has_own_commands or "example" in answer.stdout.lower(), f"`zeqnode {name} --help` shows no example"


def test_documented_configuration_is_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        (tmp_path / "zeqnode.toml").write_text(block)
        command = [
            sys.executable,
            "-m",
            "node",
            "config",
            "check",
            "--config",
            str(tmp_path / "zeqnode.toml"),
        ]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr


def test_every_debian_package_is_needed() -> None:
    """What `make` asks people to install is a command that something here starts, by its name."""
    table = (ROOT / ".ci" / "packages").read_text().partition("table='")[2].partition("'")[0]
    commands = [line.split()[0] for line in table.splitlines() if line]
    assert commands
    started = "\n".join(path.read_text() for path in _modules())
    assert not [command for command in commands if f'"{command}"' not in started]


def test_the_unit_asks_for_no_more_than_it_needs() -> None:
    lines = (ROOT / "node" / "zeqnode.service").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert settings["Type"] == "notify"
    assert settings["AmbientCapabilities"] == settings["CapabilityBoundingSet"] == "CAP_NET_ADMIN"
    assert shlex.split(settings["ExecStart"])[1:] == ["run"]
