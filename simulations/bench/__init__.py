"""Side by side with what people would pick instead, on the same machine and in the same run."""

from simulations.bench.cli import command

__all__ = ["command"]
