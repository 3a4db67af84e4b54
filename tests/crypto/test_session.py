"""The record layer's keys: lanes, epochs and the ratchet, on sessions made without a handshake."""

from __future__ import annotations

import gc
import hmac
import random
import weakref
from collections.abc import Iterator
from types import FunctionType, ModuleType
from unittest import mock

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

import crypto.session
from crypto.errors import LaneExhausted, RecordRefused, SessionExpired
from crypto.handshake import Established
from crypto.identity import MachineKeys
from crypto.session import (
    EPOCH_ZEQONDS,
    LANES,
    MAX_SEQUENCE,
    REJECT_ZEQONDS,
    TAG_BYTES,
    ZEQOND_US,
    Lane,
    Session,
)
from tests.scale import seconds, times

EPOCH_US = EPOCH_ZEQONDS * ZEQOND_US
REJECT_US = REJECT_ZEQONDS * ZEQOND_US
YEAR_US = 365 * 86_400 * 1_000_000
BUNDLE = MachineKeys.generate(random.Random(7).randbytes).bundle

Record = tuple[bytes, bytes]


def established(seed: object = 0) -> tuple[Established, Established]:
    """What a handshake would have given to initiator and responder; everything drawn from the seed."""
    draw = random.Random(repr(seed))
    root, exporter, transcript = draw.randbytes(32), draw.randbytes(32), draw.randbytes(32)
    base = draw.randrange(2**32)
    ours, theirs = draw.randrange(2**26) << 6, draw.randrange(2**26) << 6
    return (
        Established(True, root, exporter, base, transcript, ours, theirs, BUNDLE),
        Established(False, root, exporter, base, transcript, theirs, ours, BUNDLE),
    )


def joined(seed: object = 0, latency_us: int = 0) -> tuple[Session, Session]:
    initiator, responder = established(seed)
    return Session(initiator, 0), Session(responder, latency_us)


def expand(secret: bytes, label: bytes, context: bytes = b"") -> bytes:
    """HKDF-Expand (RFC 5869) of one block, written again so that the test does not repeat a mistake."""
    info = bytes([len(label)]) + label + context
    return hmac.new(secret, info + b"\x01", "sha256").digest()


def ratchet(root: bytes, epochs: int) -> list[bytes]:
    secrets = [root]
    while len(secrets) < epochs:
        secrets.append(expand(secrets[-1], b"zeqnode ratchet v1"))
    return secrets


class Recorder:
    """AES-256-GCM that fails the test where a nonce would come again under a key, and can be watched."""

    sealed: set[tuple[bytes, bytes]]
    living: weakref.WeakSet[Recorder]

    def __init__(self, key: bytes) -> None:
        self.key, self._aead = key, AESGCM(key)
        Recorder.living.add(self)

    def encrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
        assert (self.key, nonce) not in Recorder.sealed, "a nonce came again under its key"
        Recorder.sealed.add((self.key, nonce))
        return self._aead.encrypt(nonce, data, associated)

    def decrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
        return self._aead.decrypt(nonce, data, associated)


def watch() -> mock._patch[type[Recorder]]:
    Recorder.sealed, Recorder.living = set(), weakref.WeakSet()
    return mock.patch.object(crypto.session, "AESGCM", Recorder)


@pytest.fixture
def recorder() -> Iterator[type[Recorder]]:
    with watch():
        yield Recorder


def reachable(root: object) -> list[object]:
    """Every object that can be reached from `root`, but not what hangs on classes, modules and functions."""
    found, waiting = {id(root): root}, [root]
    while waiting:
        for other in gc.get_referents(waiting.pop()):
            if id(other) not in found and not isinstance(other, type | ModuleType | FunctionType):
                found[id(other)] = other
                waiting.append(other)
    return list(found.values())


def secrets_in(session: Session) -> set[bytes]:
    return {item for item in reachable(session) if isinstance(item, bytes)}


# ---------------------------------------------------------------------------------- keys and records


def test_a_lane_key_is_what_the_design_says() -> None:
    """HKDF by hand, and a record opened with nothing but AES-GCM."""
    (ours, theirs), (initiator, _) = established("vector"), joined("vector")
    lanes = [initiator.open_lane() for _ in range(6)]
    now_us = 2 * EPOCH_US + 5 * ZEQOND_US
    iv, ciphertext = lanes[5].seal(b"to the responder", now_us)
    key = expand(ratchet(ours.root, 3)[2], b"zeqnode lane v1", bytes([0, 5]))
    assert AESGCM(key).decrypt(iv, ciphertext, None) == b"to the responder"
    assert iv[:4] == (theirs.local_index + 5).to_bytes(4, "big")
    assert iv[4:8] == ((ours.zeqond_base + 125) % 2**32).to_bytes(4, "big")
    assert iv[8:] == bytes(4)
    assert len(ciphertext) == 16 + TAG_BYTES


def test_a_lane_key_vector() -> None:
    """Fixed: whoever changes a label or the order of a context byte breaks every peer."""
    root = bytes(range(32))
    session = Session(Established(True, root, bytes(32), 2**32 - 1, bytes(32), 0x40, 0xFFFFFFC0, BUNDLE), 0)
    lane = session.open_lane()
    first = b"".join(lane.seal(b"zeq", 0))
    second = b"".join(lane.seal(b"zeq", EPOCH_US))
    assert first.hex() == "ffffffc0ffffffff0000000054fae0eb451f133697d9b76e81a814902b6905"
    assert second.hex() == "ffffffc00000003b000000006a4f8c68de10c540a94fae5ee400bbcfc71168"


@given(st.binary(max_size=2000), st.integers(0, REJECT_US - 1), st.integers(0, 63), st.booleans())
def test_what_one_side_seals_the_other_opens(body: bytes, now_us: int, number: int, reply: bool) -> None:
    sender, receiver = reversed(joined()) if reply else joined()
    lane = [sender.open_lane() for _ in range(number + 1)][number]
    iv, ciphertext = lane.seal(body, now_us)
    assert receiver.open(iv, ciphertext, now_us) == body
    with pytest.raises(RecordRefused, match="before"):
        receiver.open(iv, ciphertext, now_us)


def test_one_key_for_every_lane_direction_and_epoch(recorder: type[Recorder]) -> None:
    sessions = joined()
    keys, made = set(), 0
    for session in sessions:
        for _ in range(3):
            session.open_lane()
    for epoch in range(4):
        for session in sessions:
            for lane in session._lanes:
                lane.seal(b"", epoch * EPOCH_US)
                made += 1
    keys = {key for key, _ in recorder.sealed}
    assert len(keys) == made == 24


def test_a_session_has_64_lanes_and_gives_none_twice() -> None:
    session, _ = joined()
    assert [session.open_lane().number for _ in range(LANES)] == list(range(LANES))
    with pytest.raises(LaneExhausted, match="64 lanes"):
        session.open_lane()


def test_the_clock_in_the_iv_is_not_the_time_of_day() -> None:
    """Two sessions of one moment show different session zeqonds; only differences mean something."""
    ivs = [joined(seed)[0].open_lane().seal(b"", 0)[0][4:8] for seed in range(20)]
    assert len(set(ivs)) == 20


# ---------------------------------------------------------------------------------- epochs


@pytest.mark.parametrize(
    ("sent", "received", "opens"),
    [
        pytest.param(0, 0, True, id="same"),
        pytest.param(EPOCH_US - 1, EPOCH_US, True, id="across the border"),
        pytest.param(0, 2 * EPOCH_US - 1, True, id="the oldest that counts"),
        pytest.param(EPOCH_US - 1, 2 * EPOCH_US, False, id="two epochs late"),
        pytest.param(EPOCH_US, EPOCH_US - 1, True, id="the sender's clock ahead"),
        pytest.param(2 * EPOCH_US - 1, 0, True, id="ahead by nearly two"),
        pytest.param(2 * EPOCH_US, EPOCH_US - 1, False, id="two epochs ahead"),
        pytest.param(REJECT_US - 1, REJECT_US - 1, True, id="the last moment"),
    ],
)
def test_accepted_are_the_own_epoch_and_its_neighbours(sent: int, received: int, opens: bool) -> None:
    initiator, responder = joined()
    record = initiator.open_lane().seal(b"here", sent)
    if opens:
        assert responder.open(*record, received) == b"here"
    else:
        with pytest.raises(RecordRefused, match="epoch"):
            responder.open(*record, received)


def test_both_sides_end_after_231_zeqonds_and_keep_nothing(recorder: type[Recorder]) -> None:
    initiator, responder = joined()
    lane, other = initiator.open_lane(), responder.open_lane()
    last = lane.seal(b"last", REJECT_US - 1)
    responder.open(*lane.seal(b"", REJECT_US - 1), REJECT_US - 1)
    other.seal(b"", REJECT_US - 1)
    for sender in (lane, other):
        with pytest.raises(SessionExpired):
            sender.seal(b"", REJECT_US)
    with pytest.raises(SessionExpired):
        responder.open(*last, REJECT_US)
    for session in (initiator, responder):
        session.advance(REJECT_US)
        assert session.expired
        assert not set(ratchet(established()[0].root, 5)) & secrets_in(session)
        with pytest.raises(SessionExpired):
            session.open_lane().seal(b"", REJECT_US)
    assert not list(recorder.living)


def test_advance_alone_drops_old_keys(recorder: type[Recorder]) -> None:
    """An idle session: nothing is sent or received any more, the clock alone takes the keys."""
    initiator, responder = joined()
    lane = initiator.open_lane()
    responder.open(*lane.seal(b"", 0), 0)
    root = established()[0].root
    for session in (initiator, responder):
        session.advance(2 * EPOCH_US - 1)
        assert root in secrets_in(session)
        assert session.deadline_us() == 2 * EPOCH_US
        session.advance(session.deadline_us())
        assert root not in secrets_in(session)
    assert not list(recorder.living)
    assert responder.open(*lane.seal(b"on", 2 * EPOCH_US), 2 * EPOCH_US) == b"on"


def test_deadlines_lead_to_the_end() -> None:
    session, _ = joined()
    deadlines = []
    while not session.expired:
        deadlines.append(session.deadline_us())
        session.advance(deadlines[-1])
    assert deadlines == [EPOCH_US, 2 * EPOCH_US, 3 * EPOCH_US, REJECT_US]
    assert session.deadline_us() == 2**63 - 1


@pytest.mark.parametrize("back_us", [1, ZEQOND_US, EPOCH_US, 3 * EPOCH_US, YEAR_US])
def test_a_clock_that_runs_backwards_brings_no_key_back(back_us: int, recorder: type[Recorder]) -> None:
    initiator, responder = joined()
    lane, now_us = initiator.open_lane(), 2 * EPOCH_US + 7
    early = lane.seal(b"early", 0)
    responder.open(*lane.seal(b"", now_us), now_us)
    iv, ciphertext = lane.seal(b"after", now_us - back_us)
    assert responder.open(iv, ciphertext, now_us - back_us) == b"after"
    assert initiator.epoch(now_us - back_us) == 2
    with pytest.raises(RecordRefused):
        responder.open(*early, 0)
    root = established()[0].root
    for session in (initiator, responder):
        session.advance(now_us - back_us)
        assert root not in secrets_in(session)


def test_forget_is_final_and_may_be_repeated(recorder: type[Recorder]) -> None:
    initiator, responder = joined()
    lane = initiator.open_lane()
    record = lane.seal(b"", 0)
    for session in (initiator, responder):
        session.forget()
        session.forget()
    with pytest.raises(SessionExpired):
        lane.seal(b"", 0)
    with pytest.raises(SessionExpired):
        lane.seal(b"", EPOCH_US)
    with pytest.raises(SessionExpired):
        responder.open(*record, 0)
    assert not list(recorder.living)


# ---------------------------------------------------------------------------------- forged records


def state(session: Session) -> tuple[object, ...]:
    """What a record may change, but for lane keys, which anyone's record may have derived."""
    windows = {key: (window.next, set(window._holes)) for key, (_, window) in session._receiving.items()}
    used = {key: value for key, value in windows.items() if value != (0, set())}
    return used, session._epoch, session.expired, dict(session._secrets)


@settings(max_examples=300)
@given(st.data())
def test_forged_records_leave_no_state(data: st.DataObject) -> None:
    initiator, responder = joined()
    lane, now_us = initiator.open_lane(), EPOCH_US + 3
    responder.open(*lane.seal(b"one", now_us), now_us)
    iv, ciphertext = genuine = lane.seal(b"two and more", now_us)
    responder._secret(2)  # the next epoch's may be derived ahead of time; nothing else may come
    before = state(responder)
    kind = data.draw(st.sampled_from(["flip", "cut", "lane", "epoch", "sequence", "reflect", "random"]))
    if kind == "flip":
        whole = bytearray(iv + ciphertext)
        bit = data.draw(st.integers(0, 8 * len(whole) - 1))
        whole[bit // 8] ^= 1 << bit % 8
        iv, ciphertext = bytes(whole[:12]), bytes(whole[12:])
    elif kind == "cut":
        ciphertext = ciphertext[: data.draw(st.integers(0, len(ciphertext) - 1))]
    elif kind == "lane":
        shift = data.draw(st.integers(1, 2**32 - 1))
        iv = ((int.from_bytes(iv[:4], "big") + shift) % 2**32).to_bytes(4, "big") + iv[4:]
    elif kind == "epoch":
        shift = data.draw(st.one_of(st.integers(1, 2**32 - 1), st.integers(1, 300), st.integers(-300, -1)))
        iv = iv[:4] + ((int.from_bytes(iv[4:8], "big") + shift) % 2**32).to_bytes(4, "big") + iv[8:]
    elif kind == "sequence":
        iv = iv[:8] + data.draw(st.integers(2, 2**32 - 1)).to_bytes(4, "big")
    elif kind == "reflect":
        iv, ciphertext = responder.open_lane().seal(b"own", now_us)
    else:
        iv, ciphertext = data.draw(st.binary(min_size=12, max_size=12)), data.draw(st.binary(max_size=100))
    with pytest.raises(RecordRefused):
        responder.open(iv, ciphertext, now_us)
    assert state(responder) == before
    assert responder.open(*genuine, now_us) == b"two and more"


def test_what_forged_records_can_make_it_derive_is_bounded() -> None:
    _, responder = joined()
    noise = random.Random(1)
    for zeqond in range(0, REJECT_ZEQONDS, 20):
        for lane in range(-2, LANES + 2):
            for ahead in (-EPOCH_ZEQONDS, 0, EPOCH_ZEQONDS):
                index = (responder.local_index + lane) % 2**32
                claimed = (responder.zeqond_base + zeqond + ahead) % 2**32
                iv = index.to_bytes(4, "big") + claimed.to_bytes(4, "big") + noise.randbytes(4)
                with pytest.raises(RecordRefused):
                    responder.open(iv, noise.randbytes(40), zeqond * ZEQOND_US)
        assert len(responder._receiving) <= 3 * LANES
        assert len(responder._secrets) <= 3
        assert not any(window.next for _, window in responder._receiving.values())


# ---------------------------------------------------------------------------------- the nonce


def test_a_lane_refuses_before_its_sequence_wraps_and_works_again_in_the_next_epoch() -> None:
    initiator, responder = joined()
    lane = initiator.open_lane()
    lane.seal(b"", 0)
    lane.sequence = MAX_SEQUENCE - 2
    for _ in range(2):
        assert responder.open(*lane.seal(b"late", 0), 0) == b"late"
    for now_us in (0, 0, EPOCH_US - 1):
        with pytest.raises(LaneExhausted):
            lane.seal(b"", now_us)
    iv, ciphertext = lane.seal(b"again", EPOCH_US)
    assert iv[8:] == bytes(4)
    assert responder.open(iv, ciphertext, EPOCH_US) == b"again"


CLOCK_STEPS = [0, 1, ZEQOND_US, 7 * ZEQOND_US, EPOCH_US - 1, EPOCH_US, -1, -ZEQOND_US, -EPOCH_US, -YEAR_US]


class NonceMachine(RuleBasedStateMachine):
    """Both ends of one session at a time, each with its own clock and number of workers (lanes)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = watch()
        self.patch.start()
        self.generation = 0
        self.handshake()

    def teardown(self) -> None:
        self.patch.stop()

    @rule()
    def handshake(self) -> None:
        """A new session replaces the old one; workers start at lane 0 again, under other keys."""
        self.generation += 1
        self.sessions = joined(self.generation)
        self.workers: tuple[list[Lane], list[Lane]] = ([], [])
        self.now_us = [0, 0]
        self.highest_us = [0, 0]

    def can_open(self) -> bool:
        return any(len(session._lanes) < LANES for session in self.sessions)

    @precondition(can_open)
    @rule(side=st.integers(0, 1), count=st.integers(1, 5))
    def add_workers(self, side: int, count: int) -> None:
        for _ in range(min(count, LANES - len(self.sessions[side]._lanes))):
            self.workers[side].append(self.sessions[side].open_lane())

    @rule(side=st.integers(0, 1), which=st.integers(0, 63))
    def restart_worker(self, side: int, which: int) -> None:
        """What it had is lost; it may not take up its lane again, since nobody knows how far it was."""
        workers, session = self.workers[side], self.sessions[side]
        if workers:
            del workers[which % len(workers)]
            if len(session._lanes) < LANES:
                workers.append(session.open_lane())

    @rule(side=st.integers(0, 1), step_us=st.sampled_from(CLOCK_STEPS))
    def step_clock(self, side: int, step_us: int) -> None:
        self.now_us[side] += step_us
        self.highest_us[side] = max(self.highest_us[side], self.now_us[side])

    @rule(side=st.integers(0, 1), which=st.integers(0, 63), left=st.integers(0, 4))
    def nearly_exhaust(self, side: int, which: int, left: int) -> None:
        workers = self.workers[side]
        if workers:
            lane = workers[which % len(workers)]
            lane.sequence = max(lane.sequence, MAX_SEQUENCE - left)

    @rule(side=st.integers(0, 1), which=st.integers(0, 63), count=st.integers(1, 6))
    def seal(self, side: int, which: int, count: int) -> None:
        workers, receiver = self.workers[side], self.sessions[1 - side]
        for _ in range(count if workers else 0):
            lane = workers[which % len(workers)]
            try:
                record = lane.seal(b"payload", self.now_us[side])
            except LaneExhausted:
                assert lane.sequence == MAX_SEQUENCE
                return
            except SessionExpired:
                assert self.sessions[side].elapsed_zeqonds(self.now_us[side]) >= REJECT_ZEQONDS
                return
            self.deliver(receiver, record, side)

    def deliver(self, receiver: Session, record: Record, side: int) -> None:
        now_us = self.now_us[1 - side]
        if receiver.elapsed_zeqonds(now_us) >= REJECT_ZEQONDS:
            return
        ahead = self.sessions[side].epoch(self.now_us[side]) - receiver.epoch(now_us)
        if -1 <= ahead <= 1:
            assert receiver.open(*record, now_us) == b"payload"


TestNonceNeverRepeats = NonceMachine.TestCase
TestNonceNeverRepeats.settings = settings(max_examples=120, stateful_step_count=60)


# ---------------------------------------------------------------------------------- the ratchet, at length


class Direction:
    """One way of one session over a line that loses, repeats and reorders by up to an epoch."""

    def __init__(self, sender: Session, receiver: Session, noise: random.Random) -> None:
        self.sender, self.receiver, self.noise = sender, receiver, noise
        self.lanes = [sender.open_lane() for _ in range(noise.randint(1, 3))]
        self.flying: list[tuple[int, int, Record]] = []
        self.opened = self.refused = 0
        self._seen: set[bytes] = set()

    def send(self, now_us: int) -> None:
        record = self.noise.choice(self.lanes).seal(b"%d" % now_us, now_us)
        fate = self.noise.random()
        delay_us = self.noise.choice((20_000, 300_000, 5_000_000, EPOCH_US // 2, EPOCH_US + EPOCH_US // 4))
        if fate > 0.15:
            self.flying.append((now_us + delay_us, now_us, record))
        if fate > 0.85:
            self.flying.append((now_us + delay_us + 1000, now_us, record))

    def deliver(self, now_us: int) -> None:
        """Everything that has arrived is judged by an oracle: in its epochs, and for the first time."""
        arrived = [entry for entry in self.flying if entry[0] <= now_us]
        self.flying = [entry for entry in self.flying if entry[0] > now_us]
        self.noise.shuffle(arrived)
        for _, sent_us, (iv, ciphertext) in arrived:
            behind = self.receiver.epoch(now_us) - self.sender_epoch(sent_us)
            if -1 <= behind <= 1 and iv not in self._seen:
                self._seen.add(iv)
                assert self.receiver.open(iv, ciphertext, now_us) == b"%d" % sent_us
                self.opened += 1
            else:
                with pytest.raises(RecordRefused):
                    self.receiver.open(iv, ciphertext, now_us)
                self.refused += 1

    def sender_epoch(self, sent_us: int) -> int:
        return (sent_us - self.sender.started_us) // EPOCH_US


def check_forgotten(sessions: tuple[Session, Session], secrets: list[bytes], now_us: int) -> None:
    """From two epochs back nothing is left in the object graph: no secret, no cipher of any lane."""
    for session in sessions:
        session.advance(now_us)
    slower = sessions[1]  # it started later
    oldest = len(secrets) if slower.expired else max(0, slower.epoch(now_us) - 1)
    gone = set(secrets[:oldest])
    gone |= {
        expand(secret, b"zeqnode lane v1", bytes([direction, lane]))
        for secret in secrets[:oldest]
        for direction in (0, 1)
        for lane in range(3)
    }
    assert not gone & (secrets_in(sessions[0]) | secrets_in(sessions[1]))
    assert not gone & {cipher.key for cipher in Recorder.living}


SESSIONS = times(2600)


@pytest.mark.timeout(seconds(120))
def test_ratchet_over_2600_sessions_and_10000_epochs(recorder: type[Recorder]) -> None:
    """Loss, copies and reordering across every epoch border; old keys are gone from the object graph."""
    noise = random.Random(2600)
    epochs = opened = refused = 0
    gc.disable()  # keys must go by reference count, not when the collector happens to run
    try:
        for number in range(SESSIONS):
            recorder.sealed.clear()
            latency_us = noise.randrange(2_000_000)
            secrets = ratchet(established(number)[0].root, 5)
            sessions = joined(number, latency_us)
            both = [Direction(*sessions, noise), Direction(sessions[1], sessions[0], noise)]
            end_us = REJECT_US - ZEQOND_US
            now_us, checked = latency_us, 0
            while now_us < end_us:
                for direction in both:
                    direction.send(now_us)
                    direction.deliver(now_us)
                if now_us // EPOCH_US > checked:
                    checked = now_us // EPOCH_US
                    check_forgotten(sessions, secrets, now_us)
                now_us += noise.choice((700_000, 9_000_000, 20_000_000))
            epochs += sessions[0].epoch(end_us) + 1
            check_forgotten(sessions, secrets, REJECT_US + latency_us)
            assert all(session.expired for session in sessions)
            assert not list(recorder.living)
            opened += sum(direction.opened for direction in both)
            refused += sum(direction.refused for direction in both)
    finally:
        gc.enable()
    assert epochs >= 10_000
    assert opened > 50_000
    assert refused > 1_000
