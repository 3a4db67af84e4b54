"""Claims of a slug: "this key bundle is a machine of that name", signed by the machine.

    body  key bundle, 1,248 bytes

The slug follows from the bundle, so whoever stores the claim can check it, and a false one costs the search
for keys that hash to the same nine digits: minutes (DESIGN.md section 4). Therefore a slug may have several
claims, all true, and who asks shows them all to the user. Only listed machines claim theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from crypto.identity import BUNDLE_BYTES, BadKeys, KeyBundle, slug
from dht import records
from dht.records import BadRecord, Kind, Record, Records
from dht.signatures import Signer

_SLUG = re.compile(r"ZEQ07[0-9]{9}")


def is_slug(text: str) -> bool:
    return _SLUG.fullmatch(text) is not None


def make(bundle: KeyBundle, sequence: int, signer: Signer) -> Record:
    """The machine's claim, signed by its own Ed25519 key; `sequence`: Unix ms."""
    return records.make(Kind.SLUG, slug(bundle.machine_id).encode(), sequence, bundle.to_bytes(), signer)


def read(record: Record) -> KeyBundle:
    """The bundle in a claim; its keys and the record's signature are not looked at, only that slug and signer
    are the bundle's. Raises BadRecord."""
    if record.kind is not Kind.SLUG or len(record.body) != BUNDLE_BYTES:
        raise BadRecord("not a claim of a slug")
    bundle = KeyBundle(record.body)
    if bundle.ed25519 != record.public:
        raise BadRecord("claim by another than the machine")
    if slug(bundle.machine_id).encode() != record.salt:
        raise BadRecord("slug that is not the machine's")
    return bundle


def claims(raws: Iterable[bytes], name: str, reader: Records, unix: int) -> list[KeyBundle]:
    """The machines that claim this slug in what was found under `records.slug_key(name)`, bad records left
    out, in the order of their machine_id."""
    found: dict[bytes, KeyBundle] = {}
    for raw in raws:
        try:
            record = reader.parse(raw)
            record.check_time(unix)
            if record.salt != name.encode():
                continue
            bundle = KeyBundle.from_bytes(read(record).to_bytes())
        except (BadRecord, BadKeys):
            continue
        found[bundle.machine_id] = bundle
    return [found[machine_id] for machine_id in sorted(found)]
