"""The record layer's keys: lanes, epochs and the ratchet (DESIGN section 6).

    IV (12 bytes)   receiver index u32 ‖ session zeqond u32 ‖ sequence u32
    lane key        HKDF(epoch secret, direction ‖ lane): AES-256-GCM
    epoch secret    HKDF(the epoch's before); epoch = elapsed zeqonds // 60

The session zeqond is a secret base plus the zeqonds elapsed on the boot-time clock since message 1 was sent
or accepted; wall time is never looked at. The IV's uniqueness rests on the sequence alone: it starts at 0 for
every lane and direction in every epoch, and each of those has a key of its own.

All times are microseconds of a monotonic clock that runs on through suspend.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.errors import LaneExhausted, RecordRefused, SessionExpired
from crypto.handshake import Established
from crypto.kem import expand
from crypto.pulse import ZEQOND_MS
from crypto.replay import ReplayWindow

LANES = 64
NONCE_BYTES = 12
TAG_BYTES = 16
EPOCH_ZEQONDS = 60  # 46.62 s
REKEY_ZEQONDS = 154  # 120 s, WireGuard's REKEY_AFTER_TIME
REJECT_ZEQONDS = 231  # 180 s, WireGuard's REJECT_AFTER_TIME
MAX_SEQUENCE = 2**32 - 1  # a lane refuses here and waits for the next epoch
ZEQOND_US = ZEQOND_MS * 1000
_U32 = 2**32 - 1


class Lane:
    """The sending half of one lane: one per TUN queue, never shared and never taken up again."""

    __slots__ = ("_aead", "_epoch", "_prefix", "_sequence", "_session", "_zeqond", "number")

    def __init__(self, session: Session, number: int) -> None:
        self.number = number
        self._session = session
        self._epoch = -1
        self._zeqond = -1
        self._sequence = 0
        self._prefix = b""
        self._aead: AESGCM | None = None

    def seal(self, plaintext: bytes, now_us: int) -> tuple[bytes, bytes]:
        """(IV 12, ciphertext of len(plaintext) + 16). Raises SessionExpired, LaneExhausted."""
        zeqond = self._session.elapsed_zeqonds(now_us)
        if zeqond != self._zeqond:
            self._move_to(zeqond, now_us)
        sequence = self._sequence
        if sequence >= MAX_SEQUENCE:
            raise LaneExhausted("2^32 records in one epoch")
        self._sequence = sequence + 1
        iv = self._prefix + sequence.to_bytes(4, "big")
        if self._aead is None:
            raise SessionExpired("the session's keys are gone")
        return iv, self._aead.encrypt(iv, plaintext, None)

    def _move_to(self, zeqond: int, now_us: int) -> None:
        session = self._session
        epoch = zeqond // EPOCH_ZEQONDS
        if epoch != self._epoch:
            self._aead = session.lane_key(epoch, not session.initiator, self.number, now_us)
            self._epoch, self._sequence = epoch, 0
        else:
            session.check_alive(now_us)
        self._zeqond = zeqond
        index = (session.remote_index + self.number) & _U32
        iv_zeqond = (session.zeqond_base + zeqond) & _U32
        self._prefix = index.to_bytes(4, "big") + iv_zeqond.to_bytes(4, "big")

    def drop_before(self, epoch: int) -> None:
        """Forget the key of an idle lane whose epoch has passed; its next record derives a new one."""
        if self._epoch < epoch:
            self._aead = None

    def forget(self) -> None:
        self._aead = None


class Session:
    """Both directions of one handshake's outcome. `started_us`: when message 1 was sent or accepted."""

    def __init__(self, established: Established, started_us: int) -> None:
        self.initiator = established.initiator
        self.local_index = established.local_index
        self.remote_index = established.remote_index
        self.zeqond_base = established.zeqond_base
        self.transcript = established.transcript
        self.started_us = started_us
        self._latest_us = started_us
        self._secrets: dict[int, bytes] = {0: established.root}  # epoch -> secret; at most three
        self._receiving: dict[tuple[int, int], tuple[AESGCM, ReplayWindow]] = {}
        self._lanes: list[Lane] = []
        self._epoch = 0
        self._expired = False

    def elapsed_zeqonds(self, now_us: int) -> int:
        """Never less than before: a clock that runs backwards must not bring an old key back."""
        if now_us > self._latest_us:
            self._latest_us = now_us
        return (self._latest_us - self.started_us) // ZEQOND_US

    def epoch(self, now_us: int) -> int:
        return self.elapsed_zeqonds(now_us) // EPOCH_ZEQONDS

    @property
    def expired(self) -> bool:
        return self._expired

    def open_lane(self) -> Lane:
        """A lane that was never used. Raises LaneExhausted after 64 of them."""
        if len(self._lanes) == LANES:
            raise LaneExhausted("all 64 lanes of the session were used; a new handshake is needed")
        lane = Lane(self, len(self._lanes))
        self._lanes.append(lane)
        return lane

    def open(self, iv: bytes, ciphertext: bytes, now_us: int) -> bytes:
        """The plaintext of one record. Raises RecordRefused, SessionExpired."""
        self.advance(now_us)
        if self._expired:
            raise SessionExpired("the session's keys are gone")
        lane = (int.from_bytes(iv[:4], "big") - self.local_index) & _U32
        elapsed = (int.from_bytes(iv[4:8], "big") - self.zeqond_base) & _U32
        epoch = elapsed // EPOCH_ZEQONDS
        if lane >= LANES or not -1 <= epoch - self._epoch <= 1:
            raise RecordRefused("the record's epoch or lane is not accepted")
        aead, window = self._receiver(epoch, lane, now_us)
        try:
            plaintext = aead.decrypt(iv, ciphertext, None)
        except InvalidTag as error:
            raise RecordRefused("the record does not authenticate") from error
        if not window.accept(int.from_bytes(iv[8:12], "big")):
            raise RecordRefused("the record was seen before or is too old")
        return plaintext

    def _receiver(self, epoch: int, lane: int, now_us: int) -> tuple[AESGCM, ReplayWindow]:
        receiver = self._receiving.get((epoch, lane))
        if receiver is None:
            receiver = (self.lane_key(epoch, self.initiator, lane, now_us), ReplayWindow())
            self._receiving[epoch, lane] = receiver
        return receiver

    def lane_key(self, epoch: int, to_initiator: bool, lane: int, now_us: int) -> AESGCM:
        """One lane and direction's cipher in one epoch. Raises SessionExpired."""
        self.advance(now_us)
        self.check_alive(now_us)
        return AESGCM(expand(self._secret(epoch), b"zeqnode lane v1", bytes([to_initiator, lane])))

    def check_alive(self, now_us: int) -> None:
        """Raises SessionExpired after 231 zeqonds."""
        if self._expired or self.elapsed_zeqonds(now_us) >= REJECT_ZEQONDS:
            raise SessionExpired("the session is 231 zeqonds old")

    def _secret(self, epoch: int) -> bytes:
        newest = max(self._secrets)
        while newest < epoch:
            self._secrets[newest + 1] = expand(self._secrets[newest], b"zeqnode ratchet v1")
            newest += 1
        return self._secrets[epoch]

    def advance(self, now_us: int) -> None:
        """Drop what is older than the epoch before this one, by our own clock, traffic or none."""
        if self._expired:
            return
        zeqonds = self.elapsed_zeqonds(now_us)
        if zeqonds >= REJECT_ZEQONDS:
            self.forget()
            return
        epoch = zeqonds // EPOCH_ZEQONDS
        if epoch <= self._epoch:
            return
        self._secret(epoch)
        self._epoch = epoch
        for old in [number for number in self._secrets if number < epoch - 1]:
            del self._secrets[old]
        for key in [key for key in self._receiving if key[0] < epoch - 1]:
            del self._receiving[key]
        for lane in self._lanes:
            lane.drop_before(epoch - 1)

    def deadline_us(self) -> int:
        """When `advance` next has something to drop."""
        if self._expired:
            return 2**63 - 1
        zeqonds = min((self._epoch + 1) * EPOCH_ZEQONDS, REJECT_ZEQONDS)
        return self.started_us + zeqonds * ZEQOND_US

    def forget(self) -> None:
        """Drop every key. Idempotent."""
        self._expired = True
        self._secrets.clear()
        self._receiving.clear()
        for lane in self._lanes:
            lane.forget()
