"""The node: configuration, command line, control socket and the one tree of tasks."""
