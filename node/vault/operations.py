"""What people ask of the vault through the control socket: what is in it, who had what, and a new key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from crypto.identity import slug
from crypto.pulse import ZEQOND_MS
from crypto.vault_keys import BadVaultKey, FieldKey, KeySource, Passphrase
from node.control import Asker
from node.errors import Usage
from node.operations import Arguments, Operation, Result
from node.vault import entries
from node.vault.book import SecretInfo
from node.vault.entries import Entry
from node.vault.secrets import Secrets
from node.vault.tables import AUDIT_MAX

DEFAULT_LAST: Final = 50


class VaultOperations:
    """`operations` are part of those of node/operations.py. `name` gives a peer's pet name by machine_id."""

    def __init__(self, secrets: Secrets, name: Callable[[bytes], str | None]) -> None:
        self._secrets = secrets
        self._name = name
        self.operations: dict[str, Operation] = {
            "vault_list": self._on_list,
            "vault_audit": self._on_audit,
            "vault_verify": self._on_verify,
            "vault_rotate": self._on_rotate,
        }

    async def _on_list(self, _arguments: Arguments, _asker: Asker) -> Result:
        return {
            "owner": self._secrets.owner,
            "machine": self._secrets.machine,
            "claim": (await self._secrets.claim()).hex(),
            "secrets": [self._secret(info) for info in await self._secrets.names()],
        }

    async def _on_audit(self, arguments: Arguments, _asker: Asker) -> Result:
        last = arguments.get("last", DEFAULT_LAST)
        if type(last) is not int or not 1 <= last <= AUDIT_MAX:
            raise Usage(f"--last is a number from 1 to {AUDIT_MAX}, not {last!r}")
        return {"entries": [self._entry(entry) for entry in await self._secrets.audit(last)]}

    async def _on_verify(self, _arguments: Arguments, _asker: Asker) -> Result:
        found = await self._secrets.verify_audit()
        return {"secrets": found.secrets, "entries": found.entries, "first": found.first}

    async def _on_rotate(self, arguments: Arguments, asker: Asker) -> Result:
        source = new_key(arguments)
        await asker("sealing everything with a new key")
        return {"kind": (await self._secrets.rotate(source)).name.lower()}

    def _secret(self, info: SecretInfo) -> Result:
        return {
            "purpose": info.purpose,
            "by": info.by,
            "by_name": self._called(info.by),
            "permissions": list(info.permissions),
            "permission_names": [self._called(each) for each in info.permissions],
            "made_zeqond": info.made_zeqond,
            "made": _unix(info.made_zeqond),
            "expires_zeqond": info.expires_zeqond,
            "expires": _unix(info.expires_zeqond) if info.expires_zeqond is not None else None,
            "size": info.size,
        }

    def _entry(self, entry: Entry) -> Result:
        return {
            "number": entry.number,
            "zeqond": entry.zeqond,
            "time": _unix(entry.zeqond),
            "what": entry.what.value,
            "outcome": entry.outcome.value,
            "purpose": entry.purpose,
            "by": entry.by,
            "by_name": self._called(entry.by),
        }

    def _called(self, principal: str) -> str:
        """As people know it: whoever it is, it is not empty."""
        if principal == self._secrets.machine:
            return "this machine"
        if principal == self._secrets.owner:
            return "owner"
        machine_id = entries.machine_id_of(principal)
        if machine_id is None:
            return f"{principal[:12]}…"
        return self._name(machine_id) or slug(machine_id)


def new_key(arguments: Arguments) -> KeySource | None:
    """The key that a request or a command's environment gives; None where that is a new key file. Raises
    Usage."""
    given = {key: arguments[key] for key in ("field_key", "passphrase") if arguments.get(key) is not None}
    if len(given) > 1 or not all(isinstance(value, str) for value in given.values()):
        raise Usage("give one new key: ZEQ_NEW_FIELD_KEY or ZEQ_NEW_PASSPHRASE")
    try:
        if "field_key" in given:
            return FieldKey(given["field_key"].strip())
        return Passphrase(given["passphrase"]) if given else None
    except BadVaultKey as error:
        raise Usage(str(error).replace("ZEQ_FIELD_KEY", "ZEQ_NEW_FIELD_KEY")) from error


def _unix(zeqond: int) -> int:
    """Whole seconds."""
    return zeqond * ZEQOND_MS // 1000
