"""The gate: what it measures and what it lets pass."""

import json
from pathlib import Path

import numpy as np
import pytest

from kdc.deploy.parity.gate import Difference, Tolerances, gate, spread
from kdc.deploy.parity.tolerances import tolerances
from kdc.deploy.runtimes.base import Spec, answers
from kdc.distill.errors import DataError, NumbersError, UsageError
from kdc.distill.preprocess import BGR_MEAN, IMAGENET
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import resolve

from ..._made import SIZE, Images, K, Made, gate_result


class Coarse(Made):
    """Leaves the resizing of its logits to its user."""

    def _infer(self, x: np.ndarray) -> np.ndarray:
        return super()._infer(x)[:, :, ::4, ::4]


class Turned(Made):
    """Says that it wants its images prepared in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = Spec((1, *SIZE, 3), "uint8", "NHWC", "logits", BGR_MEAN, ("a", "b", "c"))


def test_equal_networks_pass() -> None:
    result = gate_result()
    assert result.passed and result.reasons == [] and result.images == 7
    assert (result.agreement, result.max_diff, result.max_relative) == (1.0, 0.0, 0.0)
    assert result.miou_reference == result.miou_candidate == 1.0 and result.miou_drop == 0
    assert "100.000 % of pixels agree on 7 images of noise val" in result.line()


def test_difference_is_relative_to_large_logits_only() -> None:
    seen = Difference()
    seen.add_logits(np.array([100.0, 0.5, -2.0]).reshape(1, 3, 1, 1), np.array([100.5, 0.51, -2.0]).reshape(1, 3, 1, 1))
    assert seen.max_diff == pytest.approx(0.5)
    assert seen.max_relative == pytest.approx(0.01)  # 0.01 / 1 beats 0.5 / 100


def test_a_shift_of_all_logits_fails_by_difference_alone() -> None:
    result = gate_result(wrong=0.1)
    assert not result.passed and result.agreement > 0.9999
    assert len(result.reasons) == 1 and result.reasons[0].startswith("logits differ by 0.1 x max(1, |z|), 0.0001 is")
    assert gate_result(wrong=0.1, tolerances=Tolerances()).passed, (
        "without a limit a difference is measured, not limited"
    )


def test_a_bias_towards_one_class_fails_by_agreement_and_miou() -> None:
    result = gate_result(
        wrong=np.array([1.0, 0, 0], np.float32).reshape(1, 3, 1, 1), tolerances=Tolerances(None, 0.99, 0.5)
    )
    assert [reason.split()[-2:] for reason in result.reasons] == [["is", "needed"], ["is", "allowed"]]
    assert result.miou_reference == 1.0 and result.miou_drop is not None and result.miou_drop > 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_never_pass(bad: float) -> None:
    wrong = np.zeros((1, 3, *SIZE), np.float32)
    wrong[0, 0, 0, 0] = bad
    result = gate_result(wrong=wrong, tolerances=Tolerances(None, 0.0))
    assert result.reasons == ["the candidate gives values that are not finite (7 logits)"]
    assert result.not_finite == (0, 7)
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_reference_that_is_not_finite_is_named() -> None:
    wrong = np.full((1, 3, *SIZE), np.nan, np.float32)
    result = gate(Made(wrong), Made(), Images(1), Tolerances(None, 0.0), images=None)
    assert result.reasons[0] == f"the reference gives values that are not finite ({3 * 8 * 12} logits)"
    assert result.not_finite == (3 * 8 * 12, 0)


@pytest.mark.parametrize("head", ["logits", "argmax"])
def test_what_pads_an_image_is_no_agreement(head: str) -> None:
    wrong = np.zeros((1, 3, *SIZE), np.float32)
    wrong[:, :, :2, :4] = -np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1) * 100
    data = Images(size=(2, 4))  # 8 of 128 pixels
    result = gate_result(wrong, Tolerances(agreement=0.9), data, head=head)
    right = np.mean([data.read(i)[1] == 0 for i in range(len(data))])
    assert result.agreement == pytest.approx(right) and not result.passed
    noise = np.zeros((1, 3, *SIZE), np.float32)
    noise[:, :, 2:] = 50
    assert gate_result(noise, data=data, head=head).passed, "what is wrong in the padding alone, nobody sees"


def test_the_record_of_a_comparison() -> None:
    shift = np.array([0.5, 0, 0], np.float32).reshape(1, 3, 1, 1)
    record = gate_result(shift).to_dict()
    assert record["max_diff"] == pytest.approx(0.5) and record["mean_diff"] == pytest.approx(0.5 / 3, rel=1e-4)
    assert record["worst_class"]["name"] in "abc" and record["worst_class"]["drop"] > 0
    assert record["boundary_drop"] > 0 and record["precision"] == "fp32" and record["not_finite"] == [0, 0]
    assert record["preprocess"] == {"reference": IMAGENET.sha(), "candidate": IMAGENET.sha()}
    assert record["tolerances"]["max_diff"] == 1e-4 and len(record["keys"]) == 7 and "golden" not in record
    assert gate_result(data=Images(labelled=False)).to_dict()["worst_class"] is None


def test_another_preprocessing_never_passes() -> None:
    result = gate(Made(), Turned(), Images(), Tolerances(), images=None)
    assert result.agreement == 1 and not result.passed
    assert "prepare images differently" in result.reasons[0]
    assert result.preprocess["reference"] != result.preprocess["candidate"]


def test_tolerances_come_from_flags_then_the_run_then_the_precision(tmp_path: Path) -> None:
    assert tolerances("fp32") == Tolerances(1e-4, 0.9999)
    assert tolerances("int8+fp16") == Tolerances(None, 0.99, 0.5)
    config = resolve({}, sets=["gates.fp16.agreement=0.5"])
    (tmp_path / "run.json").write_text("{}")
    assert tolerances("fp16", Run(tmp_path)) == tolerances("fp16")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    run = Run(tmp_path)
    assert tolerances("fp16", run) == Tolerances(None, 0.5, None, 2**-9), "the other keys keep their defaults"
    assert tolerances("fp16", run, agreement=0.7, miou_drop=None).agreement == 0.7
    assert tolerances("fp16", run, agreement=0.0).agreement == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("agreement", value) for value in (float("nan"), 99, -0.1, float("inf"))),
        *(("miou_drop", value) for value in (float("nan"), -1, float("inf"))),
        *((name, value) for name in ("max_diff", "tie") for value in (float("nan"), -1e-3, float("inf"))),
    ],
)
def test_a_value_that_is_no_limit_is_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name} {value:g} is not accepted: it is a .*; set ") as caught:
        tolerances("int8", None, **{name: value})
    assert caught.value.exit_code == 2


def test_masks_are_compared_with_logits() -> None:
    result = gate_result(head="argmax")
    assert result.passed and result.max_diff is None and result.agreement == 1.0
    assert not gate_result(np.array([9.0, 0, 0], np.float32).reshape(1, 3, 1, 1), head="argmax").passed


def test_a_free_batch_sees_several_sizes() -> None:
    candidate = Made(batch=None)
    result = gate(Made(batch=None), candidate, Images(), Tolerances(), images=None)
    assert candidate.seen == [1, 2, 3, 1] and result.images == 7
    fixed, free = Made(batch=2), Made(batch=None)
    assert gate(fixed, free, Images(), Tolerances(), images=None).images == 7
    assert set(fixed.seen) == {2} and free.seen == [1, 2, 3, 1]


@pytest.mark.parametrize(("reference", "candidate"), [(1, 4), (4, 1), (4, 4), (None, 4), (4, None), (2, 3)])
@pytest.mark.parametrize("count", [2, 6])
def test_each_side_runs_in_its_own_batch(reference: int | None, candidate: int | None, count: int) -> None:
    one, two = Made(batch=reference), Made(batch=candidate)
    result = gate(one, two, Images(), Tolerances(), images=count)
    assert result.passed and result.images == len(result.keys) == len(set(result.keys)) == count
    assert result.keys == [f"image{i}" for i in spread(7, count)]
    for runtime, batch in ((one, reference), (two, candidate)):
        assert batch is None or set(runtime.seen) == {batch}
    assert result.miou_reference == result.miou_candidate == 1.0, "each answer belongs to its image"


def test_logits_of_low_resolution_are_enlarged() -> None:
    result = gate(Coarse(), Coarse(batch=2), Images(), Tolerances(1e-4, 1.0), images=None)
    assert result.passed and result.images == 7 and result.golden is not None
    assert result.golden.mask.shape == (8, 12) and result.miou_reference == result.miou_candidate
    mixed = gate(Made(), Coarse(), Images(), Tolerances(None, 0.0), images=None)
    assert mixed.agreement < 1 and mixed.max_diff


def test_other_input_sizes_do_not_compare() -> None:
    larger = Made()
    larger.spec = Spec((1, 16, 16, 3), "uint8", "NHWC", "logits", IMAGENET, ("a", "b", "c"))
    with pytest.raises(NumbersError, match="the candidate takes 16x16, the reference 8x16: compare files for one"):
        gate(Made(), larger, Images(), Tolerances())


def test_a_stray_class_does_not_change_what_boundaries_are_averaged_over() -> None:
    data = Images(count=1, size=(8, 16))
    data.images[:] = 0
    data.images[0, :, :8, 0], data.images[0, :, 8:, 1] = 160, 160
    wrong = np.zeros((1, 3, *SIZE), np.float32)
    wrong[0, 2, 4, 7] = 100
    drop = gate_result(wrong, Tolerances(agreement=0.5), data).boundary_drop
    assert drop == pytest.approx(100 * (1 - (23 / 24 + 1) / 2)), "one of 24 band pixels of one of two classes"
    data.images[0, :, :, 0], data.images[0, :, :, 1] = 160, 0
    assert gate_result(data=data).boundary_drop is None


def test_images_without_labels_and_no_images() -> None:
    result = gate_result(data=Images(labelled=False))
    assert result.passed and result.miou_reference is None and result.miou_drop is None
    with pytest.raises(DataError, match="no image to compare"):
        gate_result(data=Images(count=0))


def test_another_shape_is_another_network() -> None:
    with pytest.raises(NumbersError, match="the candidate gives 1x4x4, the reference 1x8x8"):
        Difference().add_masks(np.zeros((1, 8, 8)), np.zeros((1, 4, 4)))


def test_a_flip_between_equal_scores_is_a_tie_and_no_fault() -> None:
    logits = np.zeros((1, 3, 1, 4), np.float32)
    logits[0, 0], logits[0, 1] = [1.0, 1.0, 1.0, 80.0], [0.9995, 0.99, -5.0, 79.9]
    seen = Difference()
    seen.add_masks(np.zeros((1, 1, 4), np.uint8), np.array([[[1, 1, 1, 1]]], np.uint8), logits, tie=2**-9)
    assert (seen.pixels, seen.same, seen.ties) == (4, 0, 2)  # 0.0005 apart, and 0.1 at 80
    noise = np.random.default_rng(3).uniform(-0.5, 0.5, (1, 3, *SIZE)).astype(np.float32)
    strict = gate_result(noise, Tolerances(agreement=0.9999), head="argmax")
    lenient = gate_result(noise, Tolerances(agreement=0.9999, tie=1.0), head="argmax")
    assert not strict.passed and strict.tied == 0
    assert lenient.passed and lenient.agreement == strict.agreement
    assert lenient.tied == pytest.approx(1 - strict.agreement) and "are ties" in lenient.line()


def test_what_takes_no_single_image_gets_several() -> None:
    class Profiled(Made):
        @property
        def batches(self) -> tuple[int, int]:
            return 2, 4

    profiled = Profiled(batch=None)
    assert gate(Made(batch=None), profiled, Images(7), Tolerances()).passed
    assert set(profiled.seen) <= {2, 3, 4}
    images = np.zeros((9, 8, 12, 3), np.uint8)
    assert answers(profiled, images).shape == (9, K, 8, 12) and profiled.seen[-3:] == [4, 4, 4]


def test_tf32_has_limits_of_its_own_roundings() -> None:
    rounded = Made(wrong=2e-3)
    assert not gate(Made(), rounded, Images(), Tolerances(max_diff=1e-4)).passed
    rounded.tf32 = True
    result = gate(Made(), rounded, Images(), Tolerances(max_diff=1e-4))
    assert result.passed and result.tf32
    assert result.tolerances == Tolerances(max_diff=1e-4), "what was asked for is what the next comparison is held to"
    allowed = result.tolerances.in_tf32()
    assert (allowed.max_diff, allowed.tie) == (2**-5, 2**-9)
    rounded.wrong = 2.0
    assert not gate(Made(), rounded, Images(), Tolerances(max_diff=1e-4)).passed
    assert Tolerances().in_tf32().max_diff is None, "what had no limit has none"


def test_spread() -> None:
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(3, 16) == spread(3, None) == [0, 1, 2]
