"""Statistics of activations: what was seen, whatever the order, and the cache that knows what it is of."""

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from kdc.calib import histograms
from kdc.calib.histograms import BINS, Histogram, Statistics, cache_path, collect, fingerprint
from kdc.deploy.runtimes.open import open_runtime
from kdc.distill.errors import NumbersError, UsageError
from kdc.distill.evaluation.fit import Fit
from kdc.distill.preprocess import POLICIES

RNG = np.random.default_rng(0)


def test_a_histogram_does_not_depend_on_the_order_of_the_images() -> None:
    parts = [RNG.standard_normal(500).astype(np.float32) * scale for scale in (1e-3, 1, 40)]
    parts.append(np.array([4, -0.5, 0, 0, 32], np.float32))  # powers of two, on the edges of bins
    made = []
    for order in itertools.permutations(parts):
        histogram = Histogram()
        for part in order:
            histogram.add(part)
        made.append(histogram)
    whole = np.concatenate(parts)
    for each in made:
        assert (each.low, each.high, each.zeros) == (whole.min(), whole.max(), 2)
        np.testing.assert_array_equal(each.counts, made[0].counts)
    reach = made[0].reach
    assert np.abs(whole).max() < reach <= 2 * np.abs(whole).max() and np.log2(reach) % 1 == 0
    expected = np.histogram(whole[whole != 0].astype(np.float64), bins=2 * BINS, range=(-reach, reach))[0]
    np.testing.assert_array_equal(made[0].counts, expected)
    assert made[0].magnitudes().sum() == (whole != 0).sum()


def test_all_zeros_and_values_that_are_not_finite() -> None:
    histogram = Histogram()
    histogram.add(np.zeros((2, 3), np.float32))
    assert (histogram.largest, histogram.zeros, histogram.counts.sum()) == (0, 6, 0)
    histogram.add(np.array([1, np.nan], np.float32))
    assert not np.isfinite(histogram.largest)


def test_extremes_are_those_of_all_values_though_only_some_are_counted() -> None:
    values = np.ones(histograms.SAMPLED * 3, np.float32)
    values[1], values[-2] = 7, -5  # at places that no step falls on
    histogram = Histogram()
    histogram.add(values)
    assert (histogram.low, histogram.high) == (-5, 7)
    assert histogram.counts.sum() == -(-values.size // 3)


def test_every_activation_is_seen(tmp_path: Path, network, images, monkeypatch: pytest.MonkeyPatch) -> None:
    path = network(tmp_path / "m.onnx")
    pictures = images(3)
    found = collect(path, iter(pictures), "mine")
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    assert set(found.tensors) == {"image", *(name for node in model.graph.node for name in node.output)}
    assert (found.images, found.fingerprint) == (3, "mine")
    with open_runtime(path) as runtime:
        x = runtime.prepare(np.stack(pictures[:1]))
        logits = np.concatenate([runtime.infer(runtime.prepare(each[None])) for each in pictures])
    assert found.tensors["image"].low <= x.min() and found.tensors["image"].high >= x.max()
    assert found.tensors["logits"].low == pytest.approx(logits.min(), rel=1e-5)
    assert found.tensors["logits"].high == pytest.approx(logits.max(), rel=1e-5)
    assert found.tensors["a1"].low == 0 and found.tensors["a1"].zeros > 0
    # little memory: many runs for one image, the same numbers
    monkeypatch.setattr(histograms, "MEMORY", 1 << 16)
    again = collect(path, iter(pictures))
    for name, each in found.tensors.items():
        np.testing.assert_array_equal(each.counts, again.tensors[name].counts)


def test_a_uint8_input_is_no_activation_but_what_comes_of_it_is(tmp_path: Path, network, images) -> None:
    found = collect(network(tmp_path / "m.onnx", uint8=True), images(1)).tensors
    assert "image" not in found and found["x"].high <= 2.65


def test_a_batch_that_is_not_full_is_filled(tmp_path: Path, network, images) -> None:
    assert collect(network(tmp_path / "m.onnx", batch=2), images(3)).images == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_images_of_many_sizes_are_taken_as_the_file_declares(policy, tmp_path: Path, network, images) -> None:
    path = network(tmp_path / "m.onnx", fit=policy)
    pictures = [*images(2, size=(40, 90)), *images(1, size=(5, 64)), *images(2)]
    found = collect(path, pictures)
    assert found.images == 5
    views = [view.image for image in pictures for view in Fit((32, 64), policy).views(image)]
    for name, each in collect(path, views).tensors.items():
        np.testing.assert_array_equal(each.counts, found.tensors[name].counts)


def test_what_it_refuses(tmp_path: Path, network, images) -> None:
    path = network(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="no calibration images"):
        collect(path, [])
    broken = network(tmp_path / "b.onnx", model__head__project__bias=np.full(16, np.inf, np.float32))
    with pytest.raises(NumbersError, match=r"c0 is not finite on calibration image 1"):
        collect(broken, images(1))


def test_the_cache_is_of_one_model_and_one_set_of_images(tmp_path: Path, network, images) -> None:
    path = network(tmp_path / "m.onnx")
    name = fingerprint(path, "data", ["a", "b"])
    assert name == fingerprint(path, "data", ["b", "a"]), "the order does not matter"
    other = network(tmp_path / "o.onnx", model__stem__bias=np.zeros(16, np.float32))
    changed = {
        fingerprint(path, "data", ["a"]),
        fingerprint(path, "more", ["a", "b"]),
        fingerprint(other, "data", ["a", "b"]),
    }
    assert len(changed | {name}) == 4
    made, file = collect(path, images(2), name), cache_path(tmp_path, name)
    assert file.name == f"statistics-{name[:12]}.json"
    made.save(file)
    back = Statistics.load(file, name)
    assert back is not None and (back.images, list(back.tensors)) == (2, list(made.tensors))
    for tensor, each in made.tensors.items():
        assert vars(back.tensors[tensor]).keys() == vars(each).keys()
        assert (back.tensors[tensor].low, back.tensors[tensor].reach) == (each.low, each.reach)
        np.testing.assert_array_equal(back.tensors[tensor].counts, each.counts)
    assert Statistics.load(file, "another") is None and Statistics.load(tmp_path / "none.json", name) is None
    file.write_text(json.dumps({"format": 1}))
    assert Statistics.load(file, name) is None
