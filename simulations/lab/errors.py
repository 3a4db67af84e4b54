"""What can go wrong in the laboratory, split by whose move it is."""

from node.errors import Usage, UserError


class LabError(UserError):
    """Base of all; its text is one sentence for the person at the terminal."""


class TopologyError(LabError, Usage):
    """The TOML file (or a value given to `Link.set`) is at fault; the text names the file and the key."""


class UnavailableError(LabError):
    """This machine refuses namespaces, or lacks a program; the text says what to install or to set."""


class CommandError(LabError):
    """A program that had to succeed in a namespace did not."""

    def __init__(self, place: str, argv: list[str], returncode: int, stdout: str, stderr: str) -> None:
        said = (stderr.strip() or stdout.strip())[-2000:]
        super().__init__(f"In {place}, `{' '.join(argv)}` ended with exit code {returncode}: {said}")
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
