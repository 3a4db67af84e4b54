"""What a payer signs while a tunnel runs: all that it owes so far, so the newest voucher is the only one.

    voucher   ├ msgpack [version 1, session 32, tunnel_id 16, payer 32, payee 32, terms 32, sequence,
                         up, down, zeqonds, amount] ┼ signature 64 ┤

    session   the handshake's hash: the voucher of one tunnel pays in no other, and for nobody else
    up, down  bytes of inner packets since the tunnel began, from the payer and to it; zeqonds likewise
    amount    millionths of a ZEQ: of these bytes and zeqonds, no more and no less, but for the last one,
              which may be the seeds' sum for a tunnel that both ended

The signature is the payer's Ed25519 over label ‖ payload. Nothing in a voucher ever falls from one to the
next; the one with the highest sequence stands, whatever becomes of the tunnel.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from crypto.errors import PeerFault
from crypto.identity import MACHINE_ID_BYTES, SIGNATURE_BYTES
from dht.signatures import Signatures, Signer
from node.settlement.terms import MAX_AMOUNT, MAX_BYTES, MAX_LIFESPAN, Terms

VERSION: Final = 1
LABEL: Final = b"zeqnode voucher v1"
HASH_BYTES: Final = 32
TUNNEL_ID_BYTES: Final = 16
MAX_SEQUENCE: Final = 2**40
VOUCHER_BYTES: Final = 320  # none is longer

_Hash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
_MachineId = Annotated[bytes, Meta(min_length=MACHINE_ID_BYTES, max_length=MACHINE_ID_BYTES)]
_Bytes = Annotated[int, Meta(ge=0, le=MAX_BYTES)]


class BadVoucher(PeerFault):
    """A voucher that cannot be read, does not hold, or is not for this tunnel."""


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """What all vouchers of one tunnel say alike. `payer_key`: the payer's Ed25519 key, 32 bytes."""

    session: bytes
    tunnel_id: bytes
    payer: bytes
    payee: bytes
    payer_key: bytes
    terms: Terms


class Voucher(msgspec.Struct, array_like=True, frozen=True, kw_only=True, gc=False):
    """As drawn above; `raw`, with the signature, is not part of what is signed."""

    version: Annotated[int, Meta(ge=VERSION, le=VERSION)] = VERSION
    session: _Hash
    tunnel_id: Annotated[bytes, Meta(min_length=TUNNEL_ID_BYTES, max_length=TUNNEL_ID_BYTES)]
    payer: _MachineId
    payee: _MachineId
    terms: _Hash
    sequence: Annotated[int, Meta(ge=1, le=MAX_SEQUENCE)]
    up: _Bytes
    down: _Bytes
    zeqonds: Annotated[int, Meta(ge=0, le=MAX_LIFESPAN)]
    amount: Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]

    def follows(self, other: Voucher | None) -> bool:
        """Whether it may come after that one."""
        if other is None:
            return True
        now = (self.up, self.down, self.zeqonds, self.amount)
        before = (other.up, other.down, other.zeqonds, other.amount)
        return self.sequence > other.sequence and all(a >= b for a, b in zip(now, before, strict=True))

    def says_the_same(self, other: Voucher | None) -> bool:
        """Whether only the sequence is another."""
        return other is not None and msgspec.structs.replace(self, sequence=other.sequence) == other


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Voucher).decode


def write(
    tunnel: Tunnel, sequence: int, up: int, down: int, zeqonds: int, signer: Signer, *, final: bool = False
) -> bytes:
    """A signed voucher for what was carried so far. `final`: for the seeds' sum, when both end the tunnel."""
    price = tunnel.terms.final if final else tunnel.terms.amount
    voucher = Voucher(
        session=tunnel.session,
        tunnel_id=tunnel.tunnel_id,
        payer=tunnel.payer,
        payee=tunnel.payee,
        terms=tunnel.terms.hash,
        sequence=sequence,
        up=up,
        down=down,
        zeqonds=zeqonds,
        amount=price(up + down, zeqonds),
    )
    signed = _encode(voucher)
    return signed + signer.sign(LABEL, signed)


def read(data: bytes) -> Voucher:
    """Its fields; whether it holds is not looked at. Raises BadVoucher."""
    if not SIGNATURE_BYTES < len(data) <= VOUCHER_BYTES:
        raise BadVoucher("wrong size")
    try:
        voucher = _decode(data[:-SIGNATURE_BYTES])
    except (ValueError, RecursionError) as error:
        raise BadVoucher("not a voucher") from error
    if _encode(voucher) != data[:-SIGNATURE_BYTES]:
        raise BadVoucher("a voucher in another encoding than ours")
    return voucher


def check(data: bytes, tunnel: Tunnel, before: Voucher | None, signatures: Signatures) -> Voucher:
    """A voucher of this tunnel that comes after `before`. Raises BadVoucher; the signature is looked at last,
    as it costs the most."""
    voucher = read(data)
    named = (voucher.session, voucher.tunnel_id, voucher.payer, voucher.payee, voucher.terms)
    if named != (tunnel.session, tunnel.tunnel_id, tunnel.payer, tunnel.payee, tunnel.terms.hash):
        raise BadVoucher("of another tunnel")
    if not voucher.follows(before):
        raise BadVoucher("not above the last one")
    carried, terms = voucher.up + voucher.down, tunnel.terms
    if carried > terms.most_bytes or voucher.zeqonds > terms.lifespan_zeqonds:
        raise BadVoucher("for more than the tunnel may carry")
    sums = (terms.amount(carried, voucher.zeqonds), terms.final(carried, voucher.zeqonds))
    if voucher.amount not in sums:
        raise BadVoucher("not the price of what it names")
    signed, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    if not signatures.holds(tunnel.payer_key, LABEL, signed, signature):
        raise BadVoucher("signature does not hold")
    return voucher
