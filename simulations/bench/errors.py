"""What can go wrong in the bench, split by whose move it is."""

from node.errors import Usage, UserError


class BenchError(UserError):
    """Base of all; its text is one sentence for the person at the terminal."""


class BadRequest(BenchError, Usage):
    """What was asked for cannot be meant as it stands."""


class Unmeasured(BenchError):
    """A contender did not do what the measurement needs; the others go on without it."""
