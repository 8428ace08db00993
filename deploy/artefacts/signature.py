"""Who wrote a manifest: Ed25519 signatures (RFC 8032) by a key of the user's, and the keys that the user trusts.

Signed is the whole manifest, which holds the sha256 of its file. A signature shows that the holder of the key wrote
both as they are now: not that they are good, not which run they belong to, not that no newer ones were written.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ...distill import console
from ...distill.errors import UsageError, WeightsError
from ...distill.run.records import Record
from .user_state import ExposedError, read_own, state_folder, state_path, write_own

#: the files in the user's state folder, and how large they may be
KEY, TRUSTED, LARGEST = "signing-key", "trusted-keys", 2**18
#: what a signed text begins with, so that no signature of anything else counts here
_SUBJECT = b"kdc manifest\n"
_HEX = re.compile(r"[0-9a-f]{64}")
_REMEDY = (
    "chmod 600 if it was yours alone all the time, else remove it: the next export makes a new one, and what was "
    "signed with this one needs --trust"
)
_ELSEWHERE = "name a folder of yours that stays: XDG_STATE_HOME=DIR"
#: the key of a process that cannot keep one
_passing: list[Any] = []


@dataclass(frozen=True)
class TrustedKey(Record):
    """A public key of somebody else's; ``name`` is what the user calls it."""

    key: str
    name: str = ""

    def __str__(self) -> str:
        """Key and name, as they stand in the file."""
        return f"{self.key} {self.name}".strip()


def signed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with its signature.

    Raises:
        WeightsError: as ``signing_key``.
    """
    key = signing_key()
    return {**values, "signature": {"key": _public(key), "value": key.sign(_text(values)).hex()}}


def fault(values: Mapping[str, Any]) -> str:
    """Say what is wrong with the signature of a manifest; nothing where it counts."""
    signature = values.get("signature")
    if signature is None:
        return "its manifest is not signed (an older kdc or another program wrote it)"
    try:
        key, value = signature["key"], bytes.fromhex(signature["value"])
        _ed25519().Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(value, _text(values))
    except (LookupError, TypeError, ValueError, import_module("cryptography.exceptions").InvalidSignature):
        return "its manifest is not as it was signed"
    try:
        if key in [each.key for each in trusted_keys()] or key == own_key():
            return ""
    except WeightsError as error:
        return str(error)
    return f"it is signed with the key {key}, which is neither yours nor trusted (kdc trust add {key} trusts it)"


def signing_key() -> Any:
    """Return the user's private key, made when it is first needed; one of this process alone where none can be kept.

    Raises:
        WeightsError: others can read it, or it is broken.
    """
    try:
        return _kept_key()
    except OSError as error:
        if not _passing:
            _passing.append(_ed25519().Ed25519PrivateKey.generate())
            console.warn(
                f"no signing key can be kept for you ({error.strerror or error}): what is exported now runs later only "
                f"with --trust; {_ELSEWHERE}"
            )
        return _passing[0]


def own_key() -> str | None:
    """Return the user's public key, 64 hexadecimal digits; None before the first signature.

    Raises:
        WeightsError: as ``signing_key``.
    """
    with contextlib.suppress(OSError), state_folder() as folder:
        if (key := _read_key(folder)) is not None:
            return _public(key)
    return _public(_passing[0]) if _passing else None


def show_key() -> str:
    """Return the user's public key, which is made if there is none.

    Raises:
        WeightsError: as ``signing_key``.
        UsageError: none can be kept.
    """
    try:
        return _public(_kept_key())
    except OSError as error:
        raise UsageError(f"no key can be kept for you ({error.strerror or error}); {_ELSEWHERE}") from error


def trusted_keys() -> list[TrustedKey]:
    """Return the keys that the user trusts beside the own one; none where their file may be written by others."""
    with contextlib.suppress(OSError), state_folder() as folder:
        return _read_trusted(folder)
    return []


def trust_key(key: str, name: str = "") -> TrustedKey:
    """Trust a key from now on.

    Raises:
        UsageError: it is none, or no folder can keep it.
    """
    if not _HEX.fullmatch(key):
        raise UsageError(
            f"{key!r} is no public key, which has 64 digits 0 to 9 and a to f; its owner gets it by: kdc trust show"
        )
    added = TrustedKey(key, " ".join(name.split()))
    _change_trusted(lambda known: [*(each for each in known if each.key != key), added])
    return added


def distrust_key(named: str) -> TrustedKey:
    """Trust a key, given by itself or its name, no longer.

    Raises:
        UsageError: it is not trusted, the name stands for several, or the file cannot be written.
    """
    found = [each for each in trusted_keys() if named and named in (each.key, each.name)]
    if len(found) != 1:
        why = "stands for several keys: name the key itself" if found else "is not trusted; kdc trust ls lists the keys"
        raise UsageError(f"{named!r} {why}")
    _change_trusted(lambda known: [each for each in known if each != found[0]])
    return found[0]


def _change_trusted(change: Any) -> None:
    try:
        with state_folder() as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)  # so that two commands keep each other's keys
            if read_own(folder, TRUSTED, LARGEST) is None and TRUSTED in os.listdir(folder):
                raise UsageError(
                    f"{state_path() / TRUSTED} may be written by others, is a link or too large, so its keys do not "
                    "count; remove it, or: chmod 600"
                )
            lines = [str(each) for each in change(_read_trusted(folder))]
            write_own(folder, TRUSTED, "".join(f"{line}\n" for line in lines).encode(errors="replace"))
    except OSError as error:
        raise UsageError(f"no key can be kept for you ({error.strerror or error}); {_ELSEWHERE}") from error


def _read_trusted(folder: int) -> list[TrustedKey]:
    lines = (read_own(folder, TRUSTED, LARGEST) or b"").decode(errors="replace").splitlines()
    parts = [line.partition(" ") for line in lines]
    return [TrustedKey(key, name) for key, _, name in parts if _HEX.fullmatch(key)]


def _kept_key() -> Any:
    """Return the key in the user's state folder, which is made if there is none (WeightsError as ``signing_key``)."""
    with state_folder() as folder:
        if (key := _read_key(folder)) is None:
            with contextlib.suppress(FileExistsError):  # another process was faster
                write_own(folder, KEY, _pem(_ed25519().Ed25519PrivateKey.generate()), replace=False)
            key = _read_key(folder)
    if key is None:
        raise WeightsError(f"{state_path() / KEY} is no private key; remove it, and the next export makes a new one")
    return key


def _read_key(folder: int) -> Any:
    """Return the private key; None where there is none (WeightsError as ``signing_key``)."""
    where = state_path() / KEY
    try:
        content = read_own(folder, KEY, LARGEST, secret=True)
    except ExposedError as error:
        raise WeightsError(
            f"{where} is your signing key, and {error}: who has it can sign as you; {_REMEDY}"
        ) from error
    if content is None:
        return None
    serialization = import_module("cryptography.hazmat.primitives.serialization")
    with contextlib.suppress(ValueError, TypeError, import_module("cryptography.exceptions").UnsupportedAlgorithm):
        key = serialization.load_pem_private_key(content, None)
        if isinstance(key, _ed25519().Ed25519PrivateKey):
            return key
    raise WeightsError(f"{where} is no private key; remove it, and the next export makes a new one")


def _pem(key: Any) -> bytes:
    serialization = import_module("cryptography.hazmat.primitives.serialization")
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*form)


def _public(key: Any) -> str:
    return key.public_key().public_bytes_raw().hex()


def _text(values: Mapping[str, Any]) -> bytes:
    """Return what is signed: the canonical form of a manifest, with sorted keys, without its signature."""
    rest = {key: value for key, value in values.items() if key != "signature"}
    return _SUBJECT + json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()


def _ed25519() -> Any:
    return import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
