"""``kdc predict``: what it looks at, what it writes, what it does with sizes, videos that break off, and signals."""

import csv
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from kdc.deploy.predict import outputs, predict
from kdc.deploy.predict.predict import Stopped, raise_early_end, split_words
from kdc.deploy.predict.segmenter import Windows
from kdc.distill import models
from kdc.distill.data._files import palette_of, read_image, read_mask
from kdc.distill.errors import DataError, ResourceError, UsageError, WeightsError
from kdc.distill.evaluation.evaluate import model_predictor
from kdc.distill.evaluation.tiles import Tiling
from kdc.distill.run.checkpoint import load_student, save_student
from kdc.distill.training.signals import Signals

SIZE, K = (32, 64), 3
PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
NAMES = ("red", "green", "blue")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three classes for images of 32x64, with a network of random weights."""
    return make_run(tmp_path / "runs" / "mine")


def make_run(folder: Path, **model: Any) -> Path:
    net = models.build("pspnet-mv2_035", K, seed=0, **model)
    data = {"source": "builtin", "options": {"size": list(SIZE), "val_count": 2}, "size": SIZE}
    data |= {"classes": NAMES, "palette": PALETTE}
    save_student(folder / "checkpoints" / "best.safetensors", net, {"data": data})
    (folder / "run.json").write_text(json.dumps({"data": data, "student": net.spec().to_dict()}))
    return folder


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blocks of 4x4 pixels, each with one clearly strongest channel."""
    classes = np.random.default_rng(seed).integers(0, 3, (-(-height // 4), -(-width // 4)))
    blocks = np.full((*classes.shape, 3), 60, np.uint8)
    np.put_along_axis(blocks, classes[..., None], 190, axis=2)
    return np.ascontiguousarray(blocks.repeat(4, 0).repeat(4, 1)[:height, :width])


def save(path: Path, image: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    return image


def film(path: Path, count: int = 12, size: tuple[int, int] = SIZE) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, size[::-1])
    for i in range(count):
        writer.write(picture(*size, seed=i)[..., ::-1])
    writer.release()
    return path


def frames_of(path: Path) -> list[np.ndarray]:
    capture, found = cv2.VideoCapture(str(path)), []
    while (got := capture.read())[0]:
        found.append(got[1])
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_images_by_a_run(run, capsys):
    images = {name: save(Path(f"in/{name}.png"), picture(*size)) for name, size in (("a", SIZE), ("b", (48, 40)))}
    Path("in/readme.txt").write_text("no image")
    result = predict.predict(str(run), ["in"], colour=True)
    out = run / "predict"
    assert (str(result.out), result.work.frames, result.problems) == (str(out), 2, [])
    assert result.written == {"masks": 2, "overlay": 2, "colour": 2}
    whole = model_predictor(load_student(run))
    pixels = np.zeros(K)
    for line, (name, image) in zip(rows(out / "classes.csv"), images.items(), strict=False):
        want = whole(image)
        np.testing.assert_array_equal(read_mask(out / "masks" / f"{name}.png"), want)
        assert palette_of(out / "masks" / f"{name}.png")[:K] == PALETTE
        np.testing.assert_array_equal(read_image(out / "colour" / f"{name}.png"), np.asarray(PALETTE, np.uint8)[want])
        blend = read_image(out / "overlay" / f"{name}.jpg").astype(int)[: image.shape[0]]  # the legend is below
        assert abs(blend - (image / 2 + np.asarray(PALETTE)[want] / 2)).mean() < 12  # a JPEG
        pixels += np.bincount(want.ravel(), minlength=K)
        assert (line["source"], line["height"]) == (f"in/{name}.png", str(image.shape[0]))
        assert [float(line[c]) for c in NAMES] == pytest.approx(
            np.bincount(want.ravel(), minlength=K) / want.size, abs=1e-6
        )
    assert list(result.classes.values()) == pytest.approx(pixels / pixels.sum(), abs=1e-6)
    assert rows(out / "classes.csv")[-1]["source"] == "total"
    said = capsys.readouterr().out
    assert "share of pixels in %" in said and "frames/s" in said


def test_pictures_of_all_kinds_are_read_as_the_data_are(run):
    Path("in").mkdir()
    grey = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (32, 1))
    save(Path("in/deep.png"), grey)
    save(Path("in/grey.png"), (grey >> 8).astype(np.uint8))
    Image.fromarray(picture(32, 64)).convert("RGBA").save("in/clear.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture(64, 32)).save("in/turned.jpg", exif=turned, quality=95)
    predict.predict(str(run), ["in"], out=Path("o"), overlay=False)
    masks = {path.stem: read_mask(path) for path in Path("o/masks").iterdir()}
    assert set(masks) == {"deep", "grey", "clear", "turned"}
    assert {mask.shape for mask in masks.values()} == {SIZE}
    assert (masks["deep"] == masks["grey"]).mean() > 0.99
    assert not Path("o/overlay").exists()


def test_the_words_of_the_command(run):
    save(Path("a.png"), picture(8, 8))
    assert split_words(["a.png"]) == (None, ["a.png"])
    assert split_words(["a.png", "a.png"]) == (None, ["a.png", "a.png"])
    assert split_words(["mine", "a.png"]) == ("mine", ["a.png"])
    assert split_words([str(run), "0", "rtsp://host/x"]) == (str(run), ["0", "rtsp://host/x"])
    assert split_words(["model.onnx", "*.png"]) == ("model.onnx", ["*.png"])
    assert split_words(["http://host/model.onnx"]) == (None, ["http://host/model.onnx"])
    save(run / "export" / "b.png", picture(8, 8))  # a picture in a run's folder is no network
    assert split_words([str(run / "export" / "b.png")])[0] is None
    with pytest.raises(UsageError, match=r"no run 'mien'.*did you mean 'mine'"):
        split_words(["mien", "a.png"])
    with pytest.raises(UsageError, match="nothing to look at"):
        split_words(["mine"])


def test_a_video_becomes_a_video_and_masks_with_its_numbers(run, capsys):
    film(Path("v.avi"))
    save(Path("a.png"), picture(*SIZE))
    result = predict.predict(str(run), ["v.avi", "a.png"], out=Path("o"), masks=True, every=5, limit=2)
    assert result.work.frames == 3
    assert sorted(path.name for path in Path("o/masks/v").iterdir()) == ["000000.png", "000005.png"]
    made = Path("o/overlay/v.mp4")
    assert (
        len(frames_of(made)) == 2 and frames_of(made)[0].shape[0] > SIZE[0] and frames_of(made)[0].shape[1] == SIZE[1]
    )
    assert cv2.VideoCapture(str(made)).get(cv2.CAP_PROP_FPS) == pytest.approx(12 / 5, rel=0.01)
    assert [line["frame"] for line in rows(Path("o/classes.csv"))] == ["0", "5", "", ""]
    whole = model_predictor(load_student(run))
    seen = frames_of(Path("v.avi"))[5][..., ::-1]
    np.testing.assert_array_equal(read_mask(Path("o/masks/v/000005.png")), whole(seen))
    blend = (seen / 2 + np.asarray(PALETTE)[whole(seen)] / 2)[..., ::-1]
    assert abs(frames_of(made)[1][: SIZE[0]] - blend).mean() < 15  # lossy, but the right frame under the right colours


def test_of_a_video_no_masks_unless_asked_for(run):
    predict.predict(str(run), [str(film(Path("v.avi"), 3))], out=Path("o"))
    assert not Path("o/masks").exists() and Path("o/overlay/v.mp4").exists()


def test_streaming_changes_nothing_but_the_order_of_work(run):
    film(Path("v.avi"))
    save(Path("a.png"), picture(40, 70))
    results = [
        predict.predict(str(run), ["v.avi", "a.png"], out=Path(name), masks=True, stream=stream)
        for name, stream in (("plain", False), ("stream", True))
    ]
    assert results[0].classes == results[1].classes and results[1].work.dropped == 0
    files = sorted(path.relative_to("plain") for path in Path("plain").rglob("*") if path.is_file())
    assert len(files) == 16
    assert all((Path("plain") / f).read_bytes() == (Path("stream") / f).read_bytes() for f in files)


@pytest.mark.parametrize("stream", [False, True])
def test_a_video_that_breaks_off_leaves_what_there_is(run, stream):
    whole = film(Path("v.avi"), 30).read_bytes()
    Path("v.avi").write_bytes(whole[: len(whole) // 2])
    result = predict.predict(str(run), ["v.avi"], out=Path("o"), stream=stream)
    assert 5 < result.work.frames < 25
    assert len(frames_of(Path("o/overlay/v.mp4"))) == result.work.frames
    with pytest.raises(DataError, match=r"v.avi breaks off after \d+ of 30 frames; \d+ frames done, in o"):
        raise_early_end(result)


def test_a_broken_image_among_others_is_passed_over_and_said(run, capsys):
    for name in "abc":
        save(Path(f"in/{name}.png"), picture(*SIZE))
    for name in "bc":
        Path(f"in/{name}.png").write_bytes(Path(f"in/{name}.png").read_bytes()[:60])
    result = predict.predict(str(run), ["in"], out=Path("o"))
    assert result.work.frames == 1 and len(result.problems) == 2
    with pytest.raises(DataError, match=r"in/b.png: truncated.*1 more could not be read whole either; 1 frame done"):
        raise_early_end(result)
    assert capsys.readouterr().out.count("c.png: truncated") == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_playable_video(run, monkeypatch, stream, number, code):
    if threading.current_thread() is not threading.main_thread():  # where a runner of tests keeps that for itself
        pytest.skip("signals come to the main thread alone")
    monkeypatch.setattr(predict, "_mask", stopping_at(3, number))
    result = predict.predict(str(run), [str(film(Path("v.avi")))], out=Path("o"), stream=stream)
    assert (result.work.frames, result.work.stopped) == (3, number.name)
    assert len(frames_of(Path("o/overlay/v.mp4"))) == 3
    assert rows(Path("o/classes.csv"))[-1]["source"] == "total"
    with pytest.raises(Stopped, match=f"stopped by {number.name}; 3 frames done") as raised:
        raise_early_end(result)
    assert raised.value.exit_code == code


def stopping_at(last: int, number: signal.Signals):
    done = 0

    def mask(_, frame):
        nonlocal done
        done += 1
        if done == last:  # as Python does when the signal has come; a real one can end a runner of tests
            handler = signal.getsignal(number)
            assert isinstance(getattr(handler, "__self__", None), Signals) and callable(handler)
            handler(number, None)
        return np.zeros(frame.pixels.shape[:2], np.uint8)

    return mask


def test_an_error_in_the_writing_thread_ends_the_work(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs.Drawings, "draw", full)
    with pytest.raises(OSError, match="No space left"):
        predict.predict(str(run), [str(film(Path("v.avi")))], out=Path("o"), stream=True)


def test_no_memory_for_the_whole_image_names_the_tiles(run, monkeypatch):
    save(Path("a.png"), picture(*SIZE))

    def huge(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(models.SegmentationModel, "forward", huge)
    with pytest.raises(ResourceError, match=r"a.png, 32x64; take it in tiles: --tile auto"):
        predict.predict(str(run), ["a.png"], out=Path("o"))


def test_a_file_of_no_run_has_numbers_for_names_and_its_results_here():
    image = save(Path("a.png"), picture(70, 130))
    save_student(Path("alone.safetensors"), models.build("pspnet-mv2_035", K, seed=0), {})
    predict.predict("alone.safetensors", ["a.png"], windows=Windows("32x64", 0.5))
    assert list(rows(Path("predict/classes.csv"))[0])[4:] == ["class 0", "class 1", "class 2"]
    want = model_predictor(load_student("alone.safetensors"), tiling=Tiling(SIZE, 0.5))(image)
    np.testing.assert_array_equal(read_mask(Path("predict/masks/a.png")), want)


def test_a_network_that_must_be_shown_the_label_is_refused(tmp_path):
    save(Path("a.png"), picture(*SIZE))
    with pytest.raises(WeightsError, match=r"must be shown the label.*not predict"):
        predict.predict(make_run(tmp_path / "assisted", in_channels=4), ["a.png"])


# cameras and streams, which no test machine has


class Camera:
    """A capture that gives a frame every 5 ms."""

    def __init__(self, *_):
        self.given = 0

    def isOpened(self):
        return True

    def get(self, key):
        return -1.0 if key == cv2.CAP_PROP_FRAME_COUNT else 0.0

    def grab(self):
        time.sleep(0.005)
        self.given += 1
        return True

    def retrieve(self):
        return True, np.full((*SIZE, 3), self.given % 256, np.uint8)

    def release(self): ...


def test_a_camera_does_not_wait_and_dropped_frames_are_counted(run, monkeypatch, capsys):
    def slow(_, frame):
        time.sleep(0.04)
        return np.zeros(frame.pixels.shape[:2], np.uint8)

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(predict, "_mask", slow)
    result = predict.predict(str(run), ["0"], out=Path("o"), limit=60)
    assert result.work.dropped > 10 and result.work.frames + result.work.dropped == 60
    numbers = [int(line["frame"]) for line in rows(Path("o/classes.csv"))[:-1]]
    assert numbers == sorted(numbers) and numbers[-1] == 59  # the newest was kept
    said = capsys.readouterr().out
    assert "dropped" in said and "camera 0 does not say its frames per second; 25" in said


def test_a_signal_ends_a_camera_that_hangs(run, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(Camera, "grab", hanging)
    monkeypatch.setattr(predict, "_mask", stopping_at(1, signal.SIGINT))
    assert predict.predict(str(run), ["0"], out=Path("o")).work.stopped == "SIGINT"


def hanging(camera):
    camera.given += 1
    if camera.given > 1:
        time.sleep(1.5)
    return camera.given == 1
