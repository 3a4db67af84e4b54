"""What attackers in the tests can do: seal datagrams as anybody may who knows whom they call, and forge
messages with stolen keys."""

from __future__ import annotations

from collections.abc import Iterable

from crypto.cookies import answer_mac1_key, mac1_key
from crypto.handshake import Initiator, Opening
from crypto.identity import KeyBundle
from crypto.kem import HybridKey, RealPrimitives
from tests.pair import LOOKUP, Node, Wire
from tun import fragments
from tun.addresses import Address
from tun.frames import MESSAGE1, MESSAGE2
from tun.keypairs import Keypair

# X25519 values whose every exchange is zero or fails: points of order 1, 2, 4 and 8 and their other writings
# (RFC 7748, section 7; the list of order-8 points is in "May the Fourth Be With You", 2017).
LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes(31) + b"\x80",
]


def static_of(node: Node) -> HybridKey:
    return HybridKey(node.keys.x25519_key, node.keys.ml_kem_key)


def message1_datagrams(message: bytes, responder: bytes, cookie: bytes | None = None) -> list[bytes]:
    """As everybody can make them who knows the responder's machine_id and lookup secret."""
    key = mac1_key(responder, LOOKUP)
    return [fragments.seal(bare, key, cookie) for bare in fragments.cut(MESSAGE1, message)]


def message2_datagrams(message: bytes, responder: bytes, e: bytes, message1: bytes) -> list[bytes]:
    key = answer_mac1_key(responder, e)
    bare = fragments.cut(MESSAGE2, message, fragments.message_id(message1))
    return [fragments.seal(fragment, key) for fragment in bare]


def resealed(datagram: bytes, responder: bytes) -> bytes:
    """Somebody's handshake datagram with a right mac1 for another machine."""
    return fragments.seal(datagram[:-32], mac1_key(responder, LOOKUP))


class Impostor:
    """Passes for `victim` with nothing but `stolen`, the static keys of the machine that is called.

    `ss` is the same from either side; what needs the victim's own private keys is zeros."""

    def __init__(self, victim: KeyBundle, stolen: HybridKey) -> None:
        self._stolen = stolen
        self.x25519_public = victim.x25519
        self.kem_public = victim.ml_kem

    def exchange(self, x25519_public: bytes) -> bytes:
        if x25519_public == self._stolen.x25519_public:
            return self._stolen.exchange(self.x25519_public)
        return bytes(32)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return bytes(32)


def forged_initiator(victim: KeyBundle, responder: Node) -> Initiator:
    """An attacker with the responder's static keys, in the victim's name."""
    impostor = Impostor(victim, static_of(responder))
    return Initiator(impostor, victim, responder.keys.bundle, RealPrimitives())


def forged_message1(victim: KeyBundle, responder: Node, opening: Opening) -> tuple[Initiator, bytes]:
    initiator = forged_initiator(victim, responder)
    return initiator, initiator.message1(opening)


def deliver(
    wire: Wire, node: Node, datagrams: Iterable[bytes], source: Address
) -> list[tuple[bytes, Address]]:
    """Straight into a core; what it sends in answer does not go onto the wire."""
    node.core.outgoing.clear()
    for datagram in datagrams:
        node.core.receive(datagram, source, wire.now_us, wire.unix_us(node))
    answers = list(node.core.outgoing)
    node.core.outgoing.clear()
    wire.collect(node)
    return answers


def called(wire: Wire, caller: Node, target: Node) -> list[bytes]:
    """The datagrams of the caller's message 1, taken off the wire before it carries them."""
    wire.collect(caller)
    caller.core.peers[target.id].handshakes.connect(wire.now_us, wire.unix_us(caller))
    datagrams = [datagram for datagram, _ in caller.core.outgoing]
    caller.core.outgoing.clear()
    return datagrams


def current(node: Node, other: Node) -> Keypair | None:
    return node.core.peers[other.id].keypairs.current


def connected(a: Node, b: Node) -> bool:
    """Both use the same session."""
    mine, other = current(a, b), current(b, a)
    return mine is not None and other is not None and mine.session.transcript == other.session.transcript


def payloads(node: Node) -> list[bytes]:
    """Of the packets that came out of its tunnels."""
    return [packet[40:] for _, packet in node.packets]
