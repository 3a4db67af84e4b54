"""Errors of the operating system's side of the tunnel; every text is for the person at the terminal.

`MalformedPacketError` blames whoever wrote the packet, all others this machine or its settings.
"""

from __future__ import annotations


class MalformedPacketError(ValueError):
    """The bytes are no IPv4 or IPv6 packet with sound lengths."""


class TunError(Exception):
    """This machine cannot give the tunnel what it needs; the text says what to do."""


class DeviceError(TunError):
    """The TUN device cannot be opened or used."""


class DeviceMissingError(DeviceError):
    """The kernel offers no /dev/net/tun."""


class DevicePermissionError(DeviceError):
    """The process may not open or configure a TUN device."""


class DeviceBusyError(DeviceError):
    """The name belongs to another process or to an interface of another kind."""


class DeviceNameError(DeviceError):
    """The kernel takes no interface of this name."""


class DeviceGoneError(DeviceError):
    """The device was removed or closed while in use."""


class NetworkError(TunError):
    """The kernel refused an address, a route or a link setting, or did not do what it said."""


class NetworkPermissionError(NetworkError):
    """CAP_NET_ADMIN is missing."""


class RouteConflictError(NetworkError):
    """Something else on this machine already routes this network, or the route would cut the tunnel off."""


class FilterError(NetworkError):
    """The kernel does not keep guests from this machine's services, or nft does not say so."""


class FilterMissingError(FilterError):
    """nft is not installed."""


class JournalError(NetworkError):
    """The file that remembers what to undo cannot be read or written."""


class NamesError(TunError):
    """The pool of local IPv4 names is too small or full."""


class SocketRefusedError(TunError):
    """The node's UDP socket cannot be opened or bound."""


class PortInUseError(SocketRefusedError):
    """Another program holds the UDP port."""


class DataPathError(TunError):
    """The processes that carry packets cannot be kept running."""
