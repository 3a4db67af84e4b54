"""A market of machines that ask, carry and pay in virtual time, with those among them that cheat."""
