"""Both ends of a paid tunnel: what each has measured, what is signed for it, and when service stops.

    payer ◀── statement: up, down, zeqonds ── payee
    payer ── voucher: up, down, zeqonds, amount ──▶ payee     every 10 zeqonds or 8 MB; kept before it counts

Each way is measured where it arrives, inner packets only, and neither side believes the other against its own
meter. The payer signs for no more than it sent, for what it received, and for no more time than went by. The
payee compares what it was paid with what it measured: of what it sent, that without the loss that the data
path reports and one in a hundred, so that ordinary loss never stalls a tunnel. Where more than the window is
unpaid it forwards nothing until it is paid, so nobody can cheat anybody for more than a window: the payer by
not paying, the payee by taking a voucher and leaving.

Who was killed goes on from its last voucher. What the payer measured since then is gone, so it believes the
payee's first statement for up to a window more, once: else that much would stay unpaid for ever.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from crypto.errors import PeerFault
from dht.signatures import Signatures, Signer
from node.settlement import vouchers
from node.settlement.vouchers import Tunnel, Voucher

EVERY_ZEQONDS: Final = 10
EVERY_BYTES: Final = 8_000_000
LEAST_WINDOW_BYTES: Final = 16_000_000
WINDOW_ZEQONDS: Final = 3 * EVERY_ZEQONDS
SKEW_ZEQONDS: Final = 2  # by which the two ends may count a tunnel's age differently
DRIFT_PPM: Final = 10_000
_PPM: Final = 1_000_000


class OverMetered(PeerFault):
    """The payee claims to have received more than was ever sent to it."""


class Statement(NamedTuple):
    """What the payee has received and, the loss left out, sent, in bytes of inner packets, and how old the
    tunnel is for it."""

    up: int
    down: int
    zeqonds: int


def window_bytes(rtt_us: int, bytes_per_second: int) -> int:
    """How much may be carried and not yet paid: 16 MB, or what two round trips hold on a fast long way."""
    return max(LEAST_WINDOW_BYTES, 2 * rtt_us * bytes_per_second // 1_000_000)


class Payer:
    """`last`: the voucher that we signed last, as it stands on our disk. `resumed`: the tunnel is older than
    this process. `budget`: millionths of a ZEQ that the owner means to spend on it; None: no bound."""

    def __init__(
        self,
        tunnel: Tunnel,
        signer: Signer,
        last: Voucher | None = None,
        *,
        resumed: bool = False,
        budget: int | None = None,
    ) -> None:
        self.tunnel = tunnel
        self.last = last
        self._signer = signer
        self._budget = budget
        self._resumed = resumed
        self._sent_before, self._received_before = (last.up, last.down) if last else (0, 0)
        self._sent = self._received = self._zeqonds = 0
        self._stated = Statement(0, 0, 0)

    def measured(self, sent: int, received: int, zeqonds: int) -> None:
        """By our own meters: bytes since this object was made, zeqonds since the tunnel began."""
        self._sent, self._received, self._zeqonds = sent, received, zeqonds

    def stated(self, statement: Statement) -> None:
        """Raises OverMetered where more than a window is claimed that was never sent: end the tunnel, its
        meter is not to be trusted. Less than that may be our own meter, which is read now and then; it is
        paid when that has it. A clock ahead of ours is no fault, but we pay by our own."""
        resumed, self._resumed = self._resumed, False
        sent = self._sent_before + self._sent
        if statement.up > sent + (2 if resumed else 1) * LEAST_WINDOW_BYTES:
            raise OverMetered(f"{statement.up:,} bytes received of {sent:,} sent")
        if resumed:
            self._believe(statement)
        self._stated = Statement(*map(max, self._stated, statement))

    def _believe(self, statement: Statement) -> None:
        """What we may have measured and forgotten: both ways together no more than a window."""
        up = min(max(0, statement.up - self._sent_before - self._sent), LEAST_WINDOW_BYTES)
        down = max(0, statement.down - self._received_before - self._received)
        self._sent_before += up
        self._received_before += min(down, LEAST_WINDOW_BYTES - up)

    def due(self) -> bool:
        """Whether a voucher is due: there is enough that the last one does not cover."""
        up, down, zeqonds = self._counted()
        before = self.last
        if before is None:
            return up + down > 0 or zeqonds >= EVERY_ZEQONDS
        carried = up + down - before.up - before.down
        return carried >= EVERY_BYTES or zeqonds - before.zeqonds >= EVERY_ZEQONDS

    def owes(self) -> bool:
        """Whether there is anything to sign for."""
        up, down, zeqonds = self._counted()
        return self.last is not None or self.tunnel.terms.final(up + down, zeqonds) > 0

    def brought(self) -> bool:
        """Whether anything at all has come from the payee."""
        return self._counted()[1] > 0

    def spent_up(self) -> bool:
        """Whether the next voucher would pass the budget, or what a tunnel may carry: time to end it."""
        up, down, zeqonds = self._counted()
        terms = self.tunnel.terms
        if up + down > terms.most_bytes:
            return True
        return self._budget is not None and terms.amount(up + down, zeqonds) > self._budget

    def voucher(self, *, final: bool = False) -> bytes | None:
        """For all that is owed so far, to be kept before it is sent. None where nothing more may be signed.
        `final`: both end the tunnel, so it is the seeds' sum, but within the budget."""
        if self.spent_up():
            return None
        up, down, zeqonds = self._counted()
        if final and self._budget is not None and self.tunnel.terms.final(up + down, zeqonds) > self._budget:
            final = False
        sequence = self.last.sequence + 1 if self.last else 1
        raw = vouchers.write(self.tunnel, sequence, up, down, zeqonds, self._signer, final=final)
        written = vouchers.read(raw)
        if not written.follows(self.last) or written.says_the_same(self.last):
            return None  # the last one was the seeds' sum, which covers this, or there is nothing new
        self.last = written
        return raw

    def _counted(self) -> tuple[int, int, int]:
        """Up, down, zeqonds, none below what was signed already."""
        up = min(self._stated.up, self._sent_before + self._sent)
        down = self._received_before + self._received
        zeqonds = min(self._stated.zeqonds, self._zeqonds + SKEW_ZEQONDS, self.tunnel.terms.lifespan_zeqonds)
        before = self.last
        if before is None:
            return up, down, zeqonds
        return max(up, before.up), max(down, before.down), max(zeqonds, before.zeqonds)


class Payee:
    """`kept`: the voucher that is on our disk. `window`: bytes, as `window_bytes` says."""

    def __init__(
        self, tunnel: Tunnel, signatures: Signatures, kept: Voucher | None = None, window: int = 0
    ) -> None:
        self.tunnel = tunnel
        self.kept = kept
        self.window = max(window, LEAST_WINDOW_BYTES)
        self._signatures = signatures
        self._received_before, self._sent_before = (kept.up, kept.down) if kept else (0, 0)
        self._received = self._sent = self._zeqonds = self._lost_ppm = 0

    def measured(self, received: int, sent: int, zeqonds: int, lost_ppm: int) -> None:
        """By our own meters: bytes since this object was made; zeqonds, of all since it began, when it
        was served. `lost_ppm`: of a million bytes sent, those that the data path's authenticated reports say
        did not arrive."""
        self._received, self._sent, self._zeqonds = received, sent, zeqonds
        self._lost_ppm = min(max(lost_ppm, 0), _PPM)

    def statement(self) -> Statement:
        return Statement(self._up, self._down, self._zeqonds)

    def check(self, raw: bytes) -> Voucher:
        """A voucher that came, which counts once it is kept: `keep`. Raises BadVoucher; what is older than
        the kept one is a replay, and refused like everything else."""
        return vouchers.check(raw, self.tunnel, self.kept, self._signatures)

    def keep(self, voucher: Voucher) -> None:
        """It is on our disk now."""
        if voucher.follows(self.kept):
            self.kept = voucher

    @property
    def owed(self) -> int:
        """Millionths of a ZEQ, by our own meters."""
        terms = self.tunnel.terms
        carried = min(self._up + self._down, terms.most_bytes)
        return terms.amount(carried, min(self._zeqonds, terms.lifespan_zeqonds))

    @property
    def unpaid(self) -> int:
        """Millionths of a ZEQ."""
        return max(0, self.owed - (self.kept.amount if self.kept else 0))

    def may_forward(self) -> bool:
        """Whether what is unpaid lies within the window."""
        return self.unpaid <= self.tunnel.terms.amount(self.window, WINDOW_ZEQONDS)

    def over(self) -> bool:
        """Whether the tunnel has lived, or carried, as long and as much as was agreed."""
        terms = self.tunnel.terms
        return self._zeqonds >= terms.lifespan_zeqonds or self._up + self._down >= terms.most_bytes

    @property
    def _up(self) -> int:
        return self._received_before + self._received

    @property
    def _down(self) -> int:
        """Of what was sent, that which must have arrived."""
        return self._sent_before + self._sent * max(0, _PPM - self._lost_ppm - DRIFT_PPM) // _PPM
