"""What a preset recommends, fitted to the networks, the data and the rate of a run."""

from pathlib import Path
from typing import Any

import pytest

from kdc.distill import console
from kdc.distill.settings.config import Config
from kdc.distill.settings.layers import resolve_flags
from kdc.distill.settings.presets import PRESETS


def resolved(preset: str, *sets: str, **flags: Any) -> tuple[Config, str]:
    """Return the configuration, and all that was said of it."""
    before = len(console.notes)
    config = resolve_flags(
        {key.replace("__", "."): v for key, v in flags.items()}, list(sets), None, preset, None, None
    )
    return config, "\n".join(console.notes[before:])


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ("deeplabv3-r18", "deeplabv3-r101", (0.01, 0.01)),
        ("deeplabv3-r18", "self", (0.01, 0.01)),
        ("pspnet-r18", "self", (None, None)),
        ("psp-r18", "deeplabv3-r101", (None, 0.01)),
        ("r18", "pspnet-r18", (0.01, None)),
    ],
)
def test_label_assisted_changes_the_dropout_of_deeplabv3_and_leaves_pspnet_its_own(
    student: str, teacher: str, expected: tuple[float | None, float | None]
) -> None:
    config, said = resolved("label-assisted", model__student=student, model__teacher=teacher)
    assert (config.model.dropout, config.model.teacher_dropout) == expected
    assert ("a PSPNet keeps its own dropout" in said) == (None in expected)


def test_a_dropout_that_was_asked_for_stays() -> None:
    config, _ = resolved("label-assisted", "model.dropout=0.3", model__student="pspnet-r18", model__teacher="self")
    assert (config.model.dropout, config.model.teacher_dropout) == (0.3, None)
    assert resolved("label-assist-teacher", model__student="pspnet-r18")[0].model.dropout is None
    assert resolved("label-assist-teacher", model__student="r18")[0].model.dropout == 0.01


@pytest.mark.parametrize(
    ("preset", "crop"),
    [
        *((name, (512, 1024)) for name in PRESETS if name in ("kt", "dist", "lad", "cad", "pad") or "cirkd" in name),
        *((name, (512, 512)) for name in PRESETS if name.endswith("-original") or name.startswith("label-assist")),
        ("mgd", (512, 512)),
        ("pixel-pair", (513, 513)),
    ],
)
def test_a_preset_brings_the_crop_of_the_data_set_that_it_is_for(
    preset: str, crop: tuple[int, int], tmp_path: Path
) -> None:
    config, said = resolved(preset, data__source=str(tmp_path))
    assert config.train.crop == crop and f"crop {crop[0]}x{crop[1]}, as published; --crop" in said
    config, said = resolved(preset, data__source=str(tmp_path), train__crop=(96, 96))  # as the note says
    assert config.train.crop == (96, 96) and "crop" not in said


def test_data_that_have_a_crop_of_their_own_keep_it() -> None:
    config, said = resolved("kt", data__source="builtin")
    assert config.train.crop == (64, 128) and "crop 64x128, the data's own; published 512x1024 (--crop)" in said


def test_heads_keep_ten_times_the_rate_whatever_it_is() -> None:
    config, said = resolved("pixel-pair")
    assert (config.train.lr, config.train.head_lr) == (0.007, 0.07) and "head_lr" not in said
    config, said = resolved("pixel-pair", train__lr=0.001)
    assert config.train.head_lr == pytest.approx(0.01) and "train.head_lr 0.01, 10 times train.lr" in said
    assert resolved("pixel-pair", "train.head_lr=0.5", train__lr=0.001)[0].train.head_lr == 0.5
