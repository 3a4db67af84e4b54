"""`zeqnode sim`: scenarios run in a simulated world, and their reports."""

from simulations.sim.cli import command

__all__ = ["command"]
