"""YAML that may be anybody's: what a few lines may not stand for."""

from pathlib import Path

import pytest
import yaml

from kdc import cli
from kdc.distill.yaml_text import DEEPEST, LONGEST, MOST, load_yaml, parse_yaml

TENFOLD = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "k0: &k0 {x: 1}\n" + "".join(f"k{i}: &k{i} {{<<: [{', '.join([f'*k{i - 1}'] * 9)}]}}\n" for i in range(1, 9))
BAD = {
    "aliases": (TENFOLD, f"more than {MOST} values"),
    "merges": (MERGED, f"more than {MOST} values"),
    "itself": ("a: &a [*a]", "within what it stands for"),
    "flow": ("[" * 2000 + "]" * 2000, f"more than {DEEPEST} levels"),
    "mappings": ("{a: " * 2000 + "1" + "}" * 2000, f"more than {DEEPEST} levels"),
    "blocks": ("\n".join(" " * depth + "a:" for depth in range(300)), f"more than {DEEPEST} levels"),
    "twice": ("lr: 1\nbatch: 2\nlr: 3", "the key 'lr' stands twice"),
    "twice within": ("train:\n  lr: 1\n  lr: 1", "the key 'lr' stands twice in the mapping at line 2"),
    "digits": (f"a: {'9' * 5000}", "4300 digits"),
    "bits": (f"a: {2**64}", "64 bits"),
    "hexadecimal": (f"a: 0x{'f' * 9000}", "64 bits"),
    "sixties": (f"a: 1{':59' * 900}", "64 bits"),
    "no date": ("a: 2001-99-99", "month"),
    "long": (f"a: {'x' * LONGEST}", f"more than {LONGEST} characters"),
    "object": ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_is_refused(text: tuple[str, str]) -> None:
    with pytest.raises(yaml.YAMLError, match=text[1]):
        parse_yaml(text[0])


def test_what_people_write_is_read() -> None:
    text = "base: &b {lr: 0.1, batch: 4}\ntrain: {<<: *b, lr: 0.2}\nimages: {split}/rgb\nlist: [*b, *b]\nn: 0x10"
    base = {"lr": 0.1, "batch": 4}
    expected = {"base": base, "train": base | {"lr": 0.2}, "images": "{split}/rgb", "list": [base, base], "n": 16}
    assert parse_yaml(text) == expected


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(OSError, match="is no file"):
        load_yaml(tmp_path / "pipe.yaml")


@pytest.mark.parametrize("name", ["aliases", "flow", "twice", "digits"])
@pytest.mark.parametrize(("line", "code"), [("train --dry-run --config", 2), ("verify --paper", 2), ("data info", 3)])
def test_every_command_says_it_in_a_line(
    name: str, line: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "it.yaml").write_text(BAD[name][0])
    assert cli.run([*line.split(), str(tmp_path / "it.yaml")]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "it.yaml" in err and len(err) < 500


def test_a_setting_given_nested_and_with_dots_is_given_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "it.yaml").write_text("train: {lr: 0.1}\ntrain.lr: 0.2\n")
    assert cli.run(["train", "--dry-run", "--config", str(tmp_path / "it.yaml")]) == 2
    assert "sets train.lr twice" in capsys.readouterr().err
