"""Settings: which layer wins, what is refused with which words, and that YAML gives the same configuration back."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdc.distill.errors import UsageError
from kdc.distill.settings.config import Config, parse_size, resolve
from kdc.distill.settings.yaml_files import flat_yaml

RECIPE, PRESET, FILE, SET, FLAG = 0.1, 0.2, 0.3, 0.4, 0.5


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "dotted"])
@pytest.mark.parametrize("given", range(6))
def test_each_layer_beats_those_below(tmp_path: Path, given: int, nested: bool) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"train": {"lr": FILE}} if nested else {"train.lr": FILE}))
    layers = [{"train.lr": RECIPE}, {"train.lr": PRESET}]
    config = resolve(
        {"train.lr": FLAG if given >= 5 else None},
        [f"train.lr={SET}"] if given >= 4 else [],
        file if given >= 3 else None,
        layers[: min(given, 2)],
    )
    assert config.train.lr == (Config().train.lr, RECIPE, PRESET, FILE, SET, FLAG)[given]
    assert config.train.momentum == Config().train.momentum


def test_a_layer_changes_only_its_own_keys(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("train: {iters: 7}\nmethod: {name: kt, kt: {T: 2}}\n")
    config = resolve({"train.seed": 3}, ["method.kt.lt=0.5"], file, [{"train.lr": 0.1, "train.iters": 9}])
    assert (config.train.iters, config.train.seed, config.train.lr) == (7, 3, 0.1)
    assert config.method.settings() == {"kt": {"T": 2, "lt": 0.5}}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("train.itres", "unknown setting 'train.itres'; did you mean 'train.iters'?"),
        ("model.studnet", "did you mean 'model.student'?"),
        ("tain.lr", "unknown setting 'tain'"),
        ("task.aux.weight", "unknown setting 'task.aux'; did you mean 'task.aux_weight'?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve({}, [f"{key}=1"])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.lr", "is not key=value"),
        ("train.lr=[1", "is not YAML"),
        ("train.lr=abc", "train.lr='abc'"),
        ("train.lr=0", "train.lr=0"),
        ("train.batch=3.5", "train.batch=3.5"),
        ("train.iters=-1", "train.iters=-1"),
        ("train.crop=5", "'5' is not HEIGHTxWIDTH"),
        ("train.crop=[32,0]", "HEIGHTxWIDTH"),
        ("train.crop=[32,64,3]", "train.crop"),
        ("train.scale=[2,0.5]", "(smallest, largest)"),
        ("train.precision=fp16", "'bf16-mixed'"),
        ("train.device=gpu", "'cuda'"),
        ("model.output_stride=32", "8 or 16"),
        ("model.dropout=1", "model.dropout=1"),
        ("train=3", "train is a section; set keys of it, such as --set train.iters="),
        ("train.lr.x=3", "unable to parse|valid number|dictionary|train.lr"),
        ("method.kt=3", "settings belong to a method, as in method.kt.T=4"),
        ("model.student=null", "model.student=None"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve({}, [text])
    assert any(part in str(caught.value) for part in said.split("|"))
    assert "\n" not in str(caught.value)


def test_a_value_where_a_section_is_and_the_other_way_round() -> None:
    with pytest.raises(UsageError, match="model is a section"):
        resolve({}, ["model=3", "model.student=r18"])


def test_sizes_may_be_written_hxw_anywhere(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: {size: 48x96}\n")
    config = resolve({}, ["train.crop=32X64"], file)
    assert config.data.size == (48, 96) and config.train.crop == (32, 64)
    assert parse_size("512x1024") == (512, 1024)


@pytest.mark.parametrize("text", ["32", "0x5", "ax4", "1x2x3", "-1x4", "", "3.5x4", "4x"])
def test_a_text_that_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="HEIGHTxWIDTH"):
        parse_size(text)


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        ({"train.batch": 8, "train.devices": 2, "train.nodes": 2, "train.accumulate": 2}, True),
        ({"train.batch": 4, "train.devices": 2, "train.nodes": 2, "train.accumulate": 2}, False),
        ({"train.batch": 3, "train.accumulate": 2}, False),
        ({"train.batch": 3, "train.accumulate": 3}, True),
    ],
)
def test_the_batch_is_shared_equally(values: dict[str, Any], fits: bool) -> None:
    if fits:
        resolve(values)
    else:
        with pytest.raises(UsageError, match="take a multiple of"):
            resolve(values)


def test_yaml_gives_the_same_configuration_back(tmp_path: Path) -> None:
    flags = {"data.size": (32, 64), "data.count": 5, "data.classes": ["a", "b"], "train.clip": 1.0, "model.dropout": 0}
    method = {"method.name": "kt+kd", "method.kt.tailor.train": True, "method.kd.T": "linear(4,1,1000)"}
    config = resolve({**flags, **method})
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert resolve({}, file=file) == config
    assert resolve({}, file=file).data.options() == {"size": (32, 64), "count": 5, "classes": ["a", "b"]}
    assert flat_yaml(file)["train.clip"] == 1.0


def test_settings_of_a_method_keep_their_dots_and_hyphens() -> None:
    config = resolve({}, ["method.name=label-assisted+kt", "method.label-assisted.T=2", "method.kt.tailor.train=true"])
    assert config.method.settings() == {"label-assisted": {"T": 2}, "kt": {"tailor.train": True}}


def test_changed_is_a_copy_that_is_checked() -> None:
    config = Config()
    assert config.changed(train__iters=5, train__threads=2).train.iters == 5
    assert config.train.iters == Config().train.iters and config.train.threads is None
    with pytest.raises(UsageError):
        config.changed(train__batch=0)


@pytest.mark.parametrize(("content", "said"), [("- a\n", "list"), ("a: [", "cannot read"), ("text", "str")])
def test_a_file_that_is_no_mapping(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=said):
        resolve({}, file=file)
    with pytest.raises(UsageError, match="cannot read"):
        resolve({}, file=tmp_path / "none.yaml")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert resolve({}, file=tmp_path / "c.yaml") == Config()


def test_yaml_runs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"train: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    with pytest.raises(UsageError):
        resolve({}, file=file)
    with pytest.raises(UsageError):
        resolve({}, [f"train.lr=!!python/object/apply:os.mkdir ['{tmp_path / 'made'}']"])
    assert not (tmp_path / "made").exists()


def test_a_precision_of_32_needs_no_quotes() -> None:
    assert resolve({}, ["train.precision=32"]).train.precision == "32"
