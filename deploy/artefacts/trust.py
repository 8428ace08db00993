"""Files that hold native code run only where the user, or somebody whom the user trusts, exported them."""

from pathlib import Path

from ...distill import console
from ...distill.errors import ExportError, WeightsError
from ...distill.lfs import pointer_at
from ...distill.run.files import sha256
from .beside import StoredManifest, load_manifest, manifest_path
from .signature import fault


class UntrustedError(ExportError):
    """Native code of which it is not known who made it."""

    exit_code = 4


def vouched(path: Path, kind: str, *, trust: bool = False) -> StoredManifest:
    """Return the manifest of a file, if it is one of ``kind``, of this very file, and signed with a known key.

    Args:
        path: a file with its manifest, ``<file>.json``, beside it.
        kind: "aoti" or "engine".
        trust: take a file that nothing vouches for, with a warning; a manifest that is not about it is then empty.

    Raises:
        WeightsError: there is no such file.
        UntrustedError: nothing vouches for it.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    if lfs := pointer_at(path):
        raise WeightsError(f"{path} {lfs}")
    manifest, beside = StoredManifest({}), manifest_path(path).name
    try:
        known = load_manifest(path)
        why = "" if known.kind == kind else f"{beside} is of another kind"
        if not why and known.sha256 != sha256(path):
            why = f"it is not the file that {beside} was written for (its sha256 is another)"
        if not why:
            manifest = known
            why = fault(known.values)
    except FileNotFoundError:
        why = f"there is no {beside} beside it"
    except (OSError, ValueError) as error:
        why = f"{beside} cannot be read ({error})"

    if not why:
        return manifest
    if not trust:
        raise UntrustedError(
            f"{path} holds native code and {why}: it is not run; export it again, or say --trust if you know its maker"
        )
    console.warn(f"{path.name} holds native code that nothing vouches for ({why}); it runs since you trust it")
    return manifest
