"""Native code runs where its maker is known: whatever else a manifest says, it must be signed by a key that counts."""

import json
import os
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from kdc.cli import run
from kdc.deploy.artefacts import signature
from kdc.deploy.artefacts.beside import manifest_path
from kdc.deploy.artefacts.manifest import Manifest, write_manifest
from kdc.deploy.artefacts.signature import distrust_key, own_key, show_key, signed, trust_key, trusted_keys
from kdc.deploy.artefacts.trust import UntrustedError, vouched
from kdc.distill.errors import KdcError, UsageError, WeightsError
from kdc.distill.run.files import sha256, write_json


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without a key."""
    monkeypatch.setattr(signature, "_passing", [])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "kdc"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return made(tmp_path / "model.pt2")


def made(path: Path) -> Path:
    """Write a file of native code as its export does."""
    path.write_bytes(b"native code")
    write_manifest(path, Manifest(file=path.name, sha256=sha256(path), kind="aoti", fit="pad"))
    return path


@pytest.fixture
def foreign(tmp_path: Path, home: Path) -> Iterator[Path]:
    """A file that another user exported; ``own_key`` is None again."""
    path = made(tmp_path / "foreign.pt2")
    home.rename(tmp_path / "their state")
    yield path


def change(path: Path, **values: object) -> None:
    beside = manifest_path(path)
    beside.write_text(json.dumps(json.loads(beside.read_text()) | values))


def test_what_the_user_exported_runs(package: Path, home: Path) -> None:
    assert vouched(package, "aoti").values["signature"]["key"] == own_key()
    assert (home / "signing-key").stat().st_mode & 0o777 == 0o600 and home.stat().st_mode & 0o777 == 0o700
    assert b"BEGIN PRIVATE KEY" in (home / "signing-key").read_bytes()
    moved = package.with_name("elsewhere").resolve()
    moved.mkdir()
    for path in (package, manifest_path(package)):
        shutil.copy(path, moved)
    assert vouched(moved / package.name, "aoti").kind == "aoti"


def test_files_without_native_code_are_not_signed(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    write_manifest(path, Manifest(file=path.name, sha256=sha256(path), kind="onnx", fit="pad"))
    assert "signature" not in json.loads(manifest_path(path).read_text()) and not home.exists()


def test_a_changed_byte_of_the_file_or_its_manifest_is_seen(package: Path) -> None:
    whole = manifest_path(package).read_text()
    for name, value in (("fit", "tile"), ("file", "other.pt2"), ("added", 1), ("signature", None)):
        change(package, **{name: value})
        with pytest.raises(UntrustedError, match=r"is not as it was signed|is not signed"):
            vouched(package, "aoti")
        manifest_path(package).write_text(whole)
    values = json.loads(whole)
    for part in ("key", "value"):
        changed = values["signature"] | {part: values["signature"][part].translate(str.maketrans("01", "10"))}
        change(package, signature=changed)
        with pytest.raises(UntrustedError, match="is not as it was signed"):
            vouched(package, "aoti")
    manifest_path(package).write_text(whole)
    package.write_bytes(b"native codE")
    with pytest.raises(UntrustedError, match="its sha256 is another"):
        vouched(package, "aoti")
    change(package, sha256=sha256(package))  # as whoever changed the file would
    with pytest.raises(UntrustedError, match="is not as it was signed") as caught:
        vouched(package, "aoti")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "signature", [7, "x", [], {}, {"key": 1, "value": 2}, {"key": "ab", "value": "cd"}, {"key": "é"}]
)
def test_what_is_no_signature_is_one_line(package: Path, signature: object) -> None:
    change(package, signature=signature)
    with pytest.raises(UntrustedError, match="is not as it was signed"):
        vouched(package, "aoti")


def test_a_manifest_of_three_keys_written_by_hand_lets_nothing_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt2"
    path.write_bytes(b"native code")
    write_json(manifest_path(path), {"file": path.name, "sha256": sha256(path), "kind": "aoti"})
    with pytest.raises(UntrustedError, match="is not signed") as caught:
        vouched(path, "aoti")
    assert caught.value.exit_code == 4
    assert vouched(path, "aoti", trust=True).values, "of an older kdc: the user says whose it is"


def test_a_file_of_another_user_runs_once_their_key_is_trusted(
    foreign: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UntrustedError, match=r"neither yours nor trusted .*--trust") as caught:
        vouched(foreign, "aoti")
    key = json.loads(manifest_path(foreign).read_text())["signature"]["key"]
    assert f"kdc trust add {key}" in str(caught.value) and own_key() is None, "to look makes no key"
    assert vouched(foreign, "aoti", trust=True).values and "since you trust it" in capsys.readouterr().out

    assert run(["trust", "add", key, "--name", "build host"]) == 0
    assert vouched(foreign, "aoti").values
    assert run(["trust", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["trusted"] == [{"key": key, "name": "build host"}]
    (home / "trusted-keys").chmod(0o620)
    with pytest.raises(UntrustedError):
        vouched(foreign, "aoti")
    (home / "trusted-keys").chmod(0o600)
    assert run(["trust", "rm", "build host"]) == 0
    with pytest.raises(UntrustedError):
        vouched(foreign, "aoti")


def test_keys_that_are_none_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("", "ab", 64 * "g", 64 * "A", "ssh-ed25519 AAAA"):
        with pytest.raises(UsageError, match="is no public key"):
            trust_key(wrong)
    trust_key(64 * "a", "one\n" + 64 * "b")  # a name is one line
    trust_key(64 * "c", "twice")
    trust_key(64 * "d", "twice")
    assert [each.key[0] for each in signature.trusted_keys()] == ["a", "c", "d"]
    assert run(["trust", "rm", "twice"]) == 2 and "stands for several keys" in capsys.readouterr().err
    assert run(["trust", "rm", "nobody"]) == 2


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_signs_nothing(package: Path, home: Path, mode: int) -> None:
    (home / "signing-key").chmod(mode)
    with pytest.raises(WeightsError, match=f"its mode is {mode:04o}.*chmod 600") as caught:
        signed({})
    assert caught.value.exit_code == 4
    with pytest.raises(UntrustedError, match=f"its mode is {mode:04o}"):
        vouched(package, "aoti")
    assert vouched(package, "aoti", trust=True).values
    (home / "signing-key").chmod(0o600)  # the first cure
    assert vouched(package, "aoti").values
    (home / "signing-key").unlink()  # the second
    made(package.with_name("new.pt2"))
    assert vouched(package.with_name("new.pt2"), "aoti").values
    with pytest.raises(UntrustedError, match="neither yours nor trusted"):
        vouched(package, "aoti")


@pytest.mark.parametrize("content", [b"", b"no key", bytes(signature.LARGEST + 1), "link", "rsa"])
def test_a_key_that_is_none_is_said(home: Path, tmp_path: Path, content: bytes | str) -> None:
    show_key()
    file = home / "signing-key"
    if content == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif content == "rsa":
        rsa = import_module("cryptography.hazmat.primitives.asymmetric.rsa")
        file.write_bytes(signature._pem(rsa.generate_private_key(65537, 2048)))
    else:
        file.write_bytes(bytes(content))  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=r"signing-key is .*remove it"):
        signed({})


@pytest.mark.parametrize("where", ["/dev/null", "/proc"])
def test_without_a_home_what_this_process_exports_runs_in_it_alone(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", where)
    path = made(tmp_path / "model.pt2")
    said = " ".join(capsys.readouterr().out.split())
    assert "no signing key can be kept for you" in said and "XDG_STATE_HOME=DIR" in said
    assert vouched(path, "aoti").values
    signature._passing.clear()  # another process
    with pytest.raises(UntrustedError, match="neither yours nor trusted"):
        vouched(path, "aoti")
    for command in (["show"], ["add", 64 * "a"]):
        assert run(["trust", *command]) == 2
        assert "no key can be kept for you" in capsys.readouterr().err
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))  # the cure
    assert run(["trust", "show"]) == 0 and own_key() is not None


def test_a_home_that_is_read_only_still_has_its_key(package: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def read_only(path: object, flags: int, *rest: int, **more: object) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system")
        return real(path, flags, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", read_only)
    assert vouched(package, "aoti").values and signed({})["signature"]["key"] == own_key()


def test_exports_at_once_share_one_key(home: Path) -> None:
    children = []
    for _ in range(4):
        if not (child := os.fork()):
            signed({})
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert [path.name for path in home.iterdir()] == ["signing-key"] and own_key()


def test_a_key_of_no_use_is_said_before_the_work(home: Path, tmp_path: Path) -> None:
    from kdc.deploy.parity.produce import produce

    show_key()
    (home / "signing-key").chmod(0o644)
    with pytest.raises(KdcError, match="is your signing key"):
        produce(None, tmp_path / "model.engine", lambda path: pytest.fail("it was built"))


def test_keys_that_others_may_write_are_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    trust_key("a" * 64, "caf\udcff")
    file = tmp_path / "state" / "kdc" / "trusted-keys"
    file.chmod(0o664)
    before = file.read_bytes()
    with pytest.raises(UsageError, match="chmod 600"):
        trust_key("b" * 64)
    assert file.read_bytes() == before
    file.chmod(0o600)  # the cure
    trust_key("b" * 64)
    assert [each.key[0] for each in trusted_keys()] == ["a", "b"]
    with pytest.raises(UsageError, match="is not trusted"):
        distrust_key("")
