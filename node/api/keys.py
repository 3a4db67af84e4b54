"""/api/keyex, /api/ssl and /api/zsc: post-quantum key exchange, and the vault."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Annotated, Final

from fastapi import APIRouter, Path

from node.api import faults, models
from node.api.edge import WRITING, Here, Route, Writer, documented

router: Final = APIRouter(prefix="/api", route_class=Route, tags=["keys"])

_OTHER: Final = (faults.TargetNotFound, faults.SlugUnpinned, faults.Unreachable)
_Machine = Annotated[models.Name, Path()]


@router.get("/keyex/{slug}/pubkey", responses=documented(*_OTHER))
async def keyex_pubkey(slug: _Machine, desk: Here) -> models.PublicKey:
    """A machine's published ML-KEM-768 key; open to all.

    For another machine this node asks it over the mesh. A bare KEM proves nobody: compare the fingerprint by
    another way before trusting it.
    """
    key = await desk.backend.keyex_pubkey(slug)
    return models.PublicKey(
        public_key=b64encode(key.public_key).decode(),
        fingerprint=key.fingerprint,
        machine_id=key.machine_id.hex(),
        **desk.stamp(),
    )


@router.post(
    "/keyex/{slug}/handshake", responses=documented(*_OTHER, faults.InsufficientScope, faults.InvalidState)
)
async def keyex_handshake(
    slug: _Machine, body: models.KeyexHandshake, desk: Here, _caller: Writer
) -> models.Confirmed:
    """Hand a machine what was encapsulated to its key; it answers with a key confirmation.

    Whoever can open the confirmation has the same record key as the machine. The key is for this alone: no
    tunnel rests on it.
    """
    answer = await desk.backend.keyex_handshake(slug, b64decode(body.cipher_text))
    return models.Confirmed(
        key_confirmation=b64encode(answer.key_confirmation).decode(),
        machine_id=answer.machine_id.hex(),
        **desk.stamp(),
    )


@router.post(
    "/ssl/peer-seed/keyex/initiate", responses=documented(*WRITING, *_OTHER, faults.FingerprintMismatch)
)
async def ssl_initiate(body: models.SslInitiate, desk: Here, _caller: Writer) -> models.SslInitiated:
    """Begin a ZeqSSL Mode-B seed with a peer whose key has the expected fingerprint.

    The seed stays in this machine's vault. Give `cipher_text` to the peer's `respond`; equal commitments on
    both sides say that the seeds are equal. `peer_origin` is compared with what is known of the peer and is
    never dialled: the peer is reached over the mesh.
    """
    local = desk.own(body.local_machine)
    made = await desk.backend.ssl_initiate(
        local, body.peer_origin, body.peer_machine, body.expected_fingerprint
    )
    return models.SslInitiated(
        cipher_text=b64encode(made.cipher_text).decode(),
        seed_commitment=made.seed_commitment,
        peer_machine_id=made.peer_machine_id.hex(),
        fingerprint=made.fingerprint,
        **desk.stamp(),
    )


@router.post("/ssl/peer-seed/keyex/respond", responses=documented(*WRITING, *_OTHER, faults.InvalidState))
async def ssl_respond(body: models.SslRespond, desk: Here, _caller: Writer) -> models.SslResponded:
    """Take what the peer's `initiate` gave, and keep the same seed."""
    local = desk.own(body.local_machine)
    made = await desk.backend.ssl_respond(local, body.peer_machine, b64decode(body.cipher_text))
    return models.SslResponded(
        seed_commitment=made.seed_commitment, peer_machine_id=made.peer_machine_id.hex(), **desk.stamp()
    )


@router.get(
    "/zsc/get/{purpose}",
    responses=documented(faults.InsufficientScope, faults.NotPermitted, faults.NotFound),
)
async def zsc_get(purpose: Annotated[models.Purpose, Path()], desk: Here, caller: Writer) -> models.Secret:
    """A secret of this machine's vault, for those whom its permissions name.

    Each side of a tunnel keeps its own, so this answers the owner of this machine and nobody from afar. It
    takes a token to write with: one that may only read is for looking on, not for keys.
    """
    found = await desk.backend.secret(purpose, caller)
    return models.Secret(purpose=purpose, secret=b64encode(found).decode(), **desk.stamp())
