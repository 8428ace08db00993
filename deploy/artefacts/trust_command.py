"""``kdc trust``: the keys with which files of native code are signed, the own one and those of others."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ...distill import console
from ...distill.commands.command import command, group
from ...distill.commands.flags import print_table
from ...distill.run.records import Record

if TYPE_CHECKING:
    from .signature import TrustedKey

Named = Annotated[str, typer.Argument(metavar="KEY|NAME", help="A key that is trusted, or what it is called.")]
PublicKey = Annotated[
    str, typer.Argument(metavar="PUBLIC_KEY", help="64 hexadecimal digits, as its owner sees them by: kdc trust show.")
]
KeyName = Annotated[str, typer.Option("--name", metavar="TEXT", help="What to call it.")]


def register_trust(app: typer.Typer) -> None:
    """Add ``kdc trust`` to the command line."""
    keys = group(
        "Say whose engines and packages may run here.\n\nThese files hold native code. kdc signs their manifests "
        "(Ed25519) with a key of yours, and runs them where the signature is yours or of a key that you trust. The "
        "sha256 in a manifest shows that a file is the one that it was written for; the signature shows that the "
        "holder of the key wrote the manifest as it is. Neither shows that the code is good, or that no newer file was "
        "made."
    )
    for name, function in (("ls", trust_ls), ("add", trust_add), ("rm", trust_rm), ("show", trust_show)):
        keys.command(name)(command(function))
    app.add_typer(keys, name="trust")


@dataclass(frozen=True)
class PublicKeyRecord(Record):
    """The user's own public key."""

    key: str


@dataclass(frozen=True)
class Keys(Record):
    """The user's own public key, if there is one yet, and those of others that are trusted."""

    own: str | None
    trusted: "list[TrustedKey]"


def trust_ls() -> Keys:
    """List the keys whose files run here."""
    from .signature import own_key, trusted_keys

    keys = Keys(own_key(), trusted_keys())
    own = [(keys.own, "(yours)")] if keys.own else []
    rows = [*own, *((each.key, each.name) for each in keys.trusted)]
    if rows:
        print_table("keys whose engines and packages run here", ("key", "name"), rows)
    else:
        console.say("none yet: the first export of an engine or a package makes yours")
    return keys


def trust_add(key: PublicKey, *, name: KeyName = "") -> "TrustedKey":
    """Trust somebody else's key: what is signed with it runs here without --trust.

    Take the key from its owner, not from the file that you want to run.
    """
    from .signature import trust_key

    added = trust_key(key, name)
    console.say(f"trusted from now on: {added}")
    return added


def trust_rm(key: Named) -> "TrustedKey":
    """Trust a key no longer."""
    from .signature import distrust_key

    removed = distrust_key(key)
    console.say(f"trusted no longer: {removed}")
    return removed


def trust_show() -> PublicKeyRecord:
    """Show your own public key, for others to trust; it is made if you have none."""
    from .signature import show_key

    key = show_key()
    console.say(key)
    return PublicKeyRecord(key)
