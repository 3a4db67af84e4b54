"""What can go wrong in a simulated world, split by whose move it is."""

from node.errors import Usage, UserError


class ScenarioError(Usage):
    """The scenario is at fault; the text names the file and the key."""


class ProcessEnded(UserError):
    """Another process of the same course has ended before its time."""
