"""Tunnels that are asked for, agreed on and paid: the shell around node/settlement."""
