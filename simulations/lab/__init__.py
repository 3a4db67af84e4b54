"""Hosts, routers, NATs and links in network namespaces, from a TOML file."""
