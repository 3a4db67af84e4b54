"""The tunnel: wire format, peers, the data path and the operating system's side of it."""
