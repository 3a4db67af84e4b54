"""The commands, a module for each group; node/cli.py says which name leads to which function."""
