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

from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.errors import LaneExhausted, RecordRefused, SessionExpired
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


class Outcome(Protocol):
    """What a session needs of its handshake: a `crypto.handshake.Established`, or SessionKeys."""

    @property
    def initiator(self) -> bool: ...
    @property
    def root(self) -> bytes: ...
    @property
    def zeqond_base(self) -> int: ...
    @property
    def transcript(self) -> bytes: ...
    @property
    def local_index(self) -> int: ...
    @property
    def remote_index(self) -> int: ...


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """A running session, as a worker process gets it. `root`: the secret of epoch `epoch`, 32 bytes."""

    initiator: bool
    root: bytes
    zeqond_base: int
    transcript: bytes
    local_index: int
    remote_index: int
    started_us: int
    epoch: int

    def __repr__(self) -> str:
        return f"SessionKeys(local_index={self.local_index:#x}, epoch={self.epoch})"


class Lane:
    """The sending half of one lane: one per TUN queue, never shared and never taken up again.

    For whoever seals by hand (tun/plane.py): after `ready`, `prefix` (receiver index ‖ session zeqond, 8
    bytes) ‖ `sequence` is the nonce of `cipher`, each number once. Both hold until `until_us`."""

    __slots__ = ("_epoch", "_session", "_zeqond", "cipher", "number", "prefix", "sequence", "until_us")

    def __init__(self, session: Session, number: int) -> None:
        self.number = number
        self.cipher: AESGCM | None = None
        self.prefix = b""
        self.sequence = 0
        self.until_us = -1
        self._session = session
        self._epoch = -1
        self._zeqond = -1

    def seal(self, plaintext: bytes, now_us: int) -> tuple[bytes, bytes]:
        """(IV 12, ciphertext of len(plaintext) + 16). Raises SessionExpired, LaneExhausted."""
        cipher, sequence = self.ready(now_us), self.sequence
        if sequence >= MAX_SEQUENCE:
            raise LaneExhausted("2^32 records in one epoch")
        self.sequence = sequence + 1
        iv = self.prefix + sequence.to_bytes(4, "big")
        return iv, cipher.encrypt(iv, plaintext, None)

    def ready(self, now_us: int) -> AESGCM:
        """Move to this zeqond and its epoch; the cipher. Raises SessionExpired."""
        zeqond = self._session.elapsed_zeqonds(now_us)
        if zeqond != self._zeqond:
            self._move_to(zeqond, now_us)
        if self.cipher is None:
            raise SessionExpired("the session's keys are gone")
        return self.cipher

    @property
    def epoch(self) -> int:
        """Of the last record; −1 before the first."""
        return self._epoch

    def _move_to(self, zeqond: int, now_us: int) -> None:
        session = self._session
        epoch = zeqond // EPOCH_ZEQONDS
        if epoch != self._epoch:
            self.cipher = session.lane_key(epoch, not session.initiator, self.number, now_us)
            self._epoch, self.sequence = epoch, 0
        else:
            session.check_alive(now_us)
        self._zeqond = zeqond
        self.until_us = session.started_us + (zeqond + 1) * ZEQOND_US
        index = (session.remote_index + self.number) & _U32
        iv_zeqond = (session.zeqond_base + zeqond) & _U32
        self.prefix = index.to_bytes(4, "big") + iv_zeqond.to_bytes(4, "big")

    def drop_before(self, epoch: int) -> None:
        """Forget the key of an idle lane whose epoch has passed; its next record derives a new one."""
        if self._epoch < epoch:
            self.forget()

    def forget(self) -> None:
        self.cipher, self.until_us = None, -1


class Session:
    """Both directions of one handshake's outcome. `started_us`: when message 1 was sent or accepted.

    `epoch`: that of the outcome's root, where the session is one that has been running elsewhere."""

    def __init__(self, established: Outcome, started_us: int, epoch: int = 0) -> None:
        self.initiator = established.initiator
        self.local_index = established.local_index
        self.remote_index = established.remote_index
        self.zeqond_base = established.zeqond_base
        self.transcript = established.transcript
        self.started_us = started_us
        self._latest_us = started_us
        self._secrets: dict[int, bytes] = {epoch: established.root}  # epoch -> secret; at most three
        self._receiving: dict[tuple[int, int], tuple[AESGCM, ReplayWindow]] = {}
        self._lanes: list[Lane] = []
        self._epoch = epoch
        self._expired = False

    def keys(self) -> SessionKeys:
        """For a worker: from the oldest epoch that is still accepted on. Raises SessionExpired."""
        if self._expired:
            raise SessionExpired("the session's keys are gone")
        epoch = min(self._secrets)
        return SessionKeys(
            self.initiator,
            self._secrets[epoch],
            self.zeqond_base,
            self.transcript,
            self.local_index,
            self.remote_index,
            self.started_us,
            epoch,
        )

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

    def open_lane(self, number: int | None = None) -> Lane:
        """A lane that was never used here, the next one or that `number`. Raises LaneExhausted."""
        if number is None:
            number = max((lane.number for lane in self._lanes), default=-1) + 1
        if number >= LANES or any(lane.number == number for lane in self._lanes):
            raise LaneExhausted("all 64 lanes of the session were used; a new handshake is needed")
        lane = Lane(self, number)
        self._lanes.append(lane)
        return lane

    def open(self, iv: bytes, ciphertext: bytes, now_us: int) -> bytes:
        """The plaintext of one record. Raises RecordRefused, SessionExpired."""
        lane, epoch = self.locate(iv, now_us)
        aead, window = self.receiver(epoch, lane, now_us)
        try:
            plaintext = aead.decrypt(iv, ciphertext, None)
        except InvalidTag as error:
            raise RecordRefused("the record does not authenticate") from error
        if not window.accept(int.from_bytes(iv[8:12], "big")):
            raise RecordRefused("the record was seen before or is too old")
        return plaintext

    def locate(self, iv: bytes, now_us: int) -> tuple[int, int]:
        """(lane, epoch) of a record by the first 8 bytes of its IV. Raises RecordRefused, SessionExpired."""
        self.advance(now_us)
        if self._expired:
            raise SessionExpired("the session's keys are gone")
        lane = (int.from_bytes(iv[:4], "big") - self.local_index) & _U32
        elapsed = (int.from_bytes(iv[4:8], "big") - self.zeqond_base) & _U32
        epoch = elapsed // EPOCH_ZEQONDS
        if lane >= LANES or not -1 <= epoch - self._epoch <= 1:
            raise RecordRefused("the record's epoch or lane is not accepted")
        return lane, epoch

    def receiver(self, epoch: int, lane: int, now_us: int) -> tuple[AESGCM, ReplayWindow]:
        """The cipher and the replay window of what comes in on one lane in one epoch."""
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
