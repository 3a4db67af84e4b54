"""`zeqnode demo`: two machines, one tunnel, and a recording of the wire between them."""

from simulations.demo.cli import command

__all__ = ["command"]
