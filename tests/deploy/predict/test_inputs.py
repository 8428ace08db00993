"""What a word on the command line means, and what comes of files, cameras and streams."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc.deploy.predict.inputs import Picture, Video, is_source, open_sources
from kdc.distill.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def save(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(name, np.zeros((8, 8, 3), np.uint8))


def film(path: str, count: int = 10) -> None:
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 12, (16, 8))
    for i in range(count):
        writer.write(np.full((8, 16, 3), 20 * i, np.uint8))
    writer.release()


class Capture:
    """Seven frames of something that does not say how many it has."""

    opened = True

    def __init__(self, source):
        self.source, self.given = source, 0

    def isOpened(self):
        return self.opened

    def get(self, key):
        return -1.0 if key == cv2.CAP_PROP_FRAME_COUNT else 50.0

    def grab(self):
        self.given += 1
        return self.given <= 7

    def retrieve(self):
        return True, np.full((8, 16, 3), (1, 2, 3), np.uint8)

    def release(self): ...


def test_outputs_of_the_same_name_do_not_meet():
    save("x/a.png", "y/a.bmp", "y/a.png", "y/.hidden.png", "y/deep/b.png")
    Path("y/note.txt").write_text("no image")
    film("y/a.avi")
    found = open_sources(["x", "y", "y/deep/*", "y/**/b.*"])
    assert [source.name for source in found] == ["a", "a_2", "a_3", "a_4", "b", "b_2"]
    assert [type(source) for source in found] == [Picture, Picture, Picture, Video, Picture, Picture]


def test_every_and_limit_are_of_each_source():
    save(*(f"x/{i}.png" for i in range(7)))
    film("v.avi")
    pictures = open_sources(["x"], every=3, limit=2)
    assert [source.name for source in pictures] == ["0", "3"]
    (video,) = open_sources(["v.avi"], every=3)
    assert isinstance(video, Video) and (video.total, video.live, video.rate) == (4, False, 4.0)
    frames = list(video.frames())
    assert [frame.number for frame in frames] == [0, 3, 6, 9]
    assert [round(float(frame.pixels.mean()), -1) for frame in frames] == [0, 60, 120, 180]
    (video,) = open_sources(["v.avi"], every=3, limit=2)
    assert video.total == len(list(video.frames())) == 2 and video.problem == ""


def test_a_camera_that_stops_is_a_problem_and_a_stream_that_ends_is_not(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    camera, stream = open_sources(["3", "rtsp://me:secret@host:554/cam1?key=1"])
    assert all(source.live and source.total is None for source in (camera, stream))
    frames = list(camera.frames()) + list(stream.frames())
    assert len(frames) == 14 and all(frame.live for frame in frames)
    assert frames[0].pixels[0, 0].tolist() == [3, 2, 1]  # RGB
    assert camera.problem == "camera 3 stopped after 7 frames" and stream.problem == ""
    assert (camera.name, stream.name) == ("camera3", "host_554_cam1")
    assert frames[-1].source == "rtsp://host:554/cam1?key=1"  # no password in tables
    (limited,) = open_sources(["0"], limit=4)
    assert limited.total == len(list(limited.frames())) == 4 and limited.problem == ""


def test_what_cannot_be_opened_says_what_it_is(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    monkeypatch.setattr(Capture, "opened", False)
    Path("text.txt").write_text("text")
    for word, said in (
        ("0", "it is not connected"),
        ("http://host/x", "no answer"),
        ("text.txt", "neither an image"),
    ):
        with pytest.raises(DataError, match=said):
            open_sources([word])
    with pytest.raises(UsageError, match=r"ftp:// cannot be read"):
        open_sources(["ftp://host/x"])


def test_a_number_is_a_camera_unless_it_is_a_file():
    film("7.avi", 3)
    Path("7.avi").rename("7")
    assert is_source("7") and is_source("8") and is_source("*.png") and is_source("rtsp://host")
    assert not is_source("nothing")
    (file,) = open_sources(["7"])
    assert isinstance(file, Video) and (file.label, file.total, file.camera) == ("7", 3, False)
