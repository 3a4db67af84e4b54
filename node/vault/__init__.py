"""ZSC, the vault as a service: named secrets with permissions and expiry, and an audit chain."""
