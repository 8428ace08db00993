"""The files that a prediction leaves: codecs, odd sides, palettes and the table of classes."""

import csv
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc.deploy.predict import outputs
from kdc.deploy.predict.inputs import Frame
from kdc.distill.data._files import palette_of, read_mask
from kdc.distill.errors import ExportError, UsageError


def frames_of(path) -> list[np.ndarray]:
    capture, found = cv2.VideoCapture(str(path)), []
    while (got := capture.read())[0]:
        found.append(got[1])
    return found


def test_a_codec_that_is_lacking_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(outputs, "CODECS", (("zzzz", ".mp4", "none"), ("MJPG", ".avi", "motion JPEG")))
    film = outputs.Film(tmp_path / "v", 10, (8, 16))
    film.add(np.zeros((8, 16, 3), np.uint8))
    film.close()
    assert "v.avi is written as motion JPEG: this OpenCV has no none encoder" in capsys.readouterr().out
    assert len(frames_of(tmp_path / "v.avi")) == 1 and not (tmp_path / "v.mp4").exists()
    monkeypatch.setattr(outputs, "CODECS", (("zzzz", ".mp4", "none"),))
    with pytest.raises(ExportError, match="writes no video"):
        outputs.Film(tmp_path / "w", 10, (8, 16))


def test_odd_sides_keep_their_last_row_and_column(tmp_path):
    made = outputs.Film(tmp_path / "odd", 10, (31, 63))
    made.add(np.full((31, 63, 3), 200, np.uint8))
    made.add(np.full((62, 126, 3), 100, np.uint8))  # of another size: fitted
    made.close()
    first, second = frames_of(made.path)
    assert first.shape == second.shape == (32, 64, 3)
    assert abs(first[-1, -1].astype(int) - 200).max() < 12 and abs(second[-1, -1].astype(int) - 100).max() < 12


def test_files_of_earlier_predictions_are_counted(tmp_path):
    made = outputs.Drawings(tmp_path, ["a"], [(0, 0, 0)], masks=True, overlay=True, colour=False, alpha=0.5)
    assert made.older_than(10**18) == 0
    for i, name in enumerate(("masks/a.png", "masks/film/000000.png", "overlay/a.jpg", "colour/a.png", "a.png")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        os.utime(path, (i, i))
    assert [made.older_than(10**9 * s) for s in (0, 2, 9)] == [0, 2, 4]


def colours_of(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


def test_a_legend_names_the_classes_that_are_there(tmp_path):
    palette = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    mask = np.zeros((40, 320), np.uint8)
    mask[:, 200:] = 2
    made = outputs.Legend(["road", "car", "\u6a39"], palette, 320)
    drawn = colours_of(made.draw(mask))
    assert palette[0] in drawn and palette[2] in drawn and palette[1] not in drawn
    assert [k for row in made.rows([2, 0]) for k, _ in row] == [2, 0]
    # narrow pictures and long names take more rows, and no entry begins outside
    many = outputs.Legend([f"a long name of class {k}" for k in range(40)], [(k, k, k) for k in range(40)], 200)
    rows = many.rows(range(40))
    assert len(rows) > 10 and sum(map(len, rows)) == 40 and all(0 <= x < 200 for row in rows for _, x in row)


def shape_of(path: Path) -> tuple[int, ...]:
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture.shape


def test_overlays_have_a_legend_below_and_every_frame_is_of_one_size(tmp_path):
    palette = [(k * 5, 255 - k * 5, 60) for k in range(40)]
    classes = [f"class name {k}" for k in range(40)]
    flags = {"masks": True, "overlay": True, "colour": True, "alpha": 0.5}
    made = outputs.Drawings(tmp_path, classes, palette, **flags)
    pixels = np.full((48, 96, 3), 90, np.uint8)
    few, many = np.zeros((48, 96), np.uint8), (np.arange(48 * 96) % 40).astype(np.uint8).reshape(48, 96)
    made.draw(Frame("a.png", "a", pixels), few)
    made.draw(Frame("b.png", "b", pixels), many)
    one, other = (shape_of(tmp_path / "overlay" / f"{name}.jpg") for name in "ab")
    assert 48 < one[0] < other[0] and one[1] == other[1] == 96
    assert shape_of(tmp_path / "colour" / "a.png") == (48, 96, 3)
    for number, mask in enumerate((few, many)):
        made.draw(Frame("film.mp4", "film", pixels, number=number, rate=10), mask)
    made.close()
    (film,) = (tmp_path / "overlay").glob("film.*")
    shapes = {frame.shape for frame in frames_of(film)}
    assert len(shapes) == 1 and 48 < shapes.pop()[0] < other[0]

    outputs.Drawings(tmp_path / "bare", classes, palette, legend=False, **flags).draw(Frame("a.png", "a", pixels), few)
    assert shape_of(tmp_path / "bare" / "overlay" / "a.jpg") == (48, 96, 3)


@pytest.mark.parametrize("count", [2, 5, 17, 255])
def test_a_mask_keeps_its_numbers_whatever_the_number_of_colours(count, tmp_path):
    mask = np.arange(count, dtype=np.uint8)[None].repeat(3, 0)
    palette = tuple((i, 255 - i, 7) for i in range(count))
    outputs.write_mask(tmp_path / "m.png", mask, palette)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), mask)
    assert palette_of(tmp_path / "m.png")[:count] == palette


def test_the_total_weighs_images_by_their_pixels(tmp_path, capsys):
    table = outputs.ClassTable(tmp_path / "classes.csv", ["a, b", "c", "d"])
    for name, mask in (("one", np.zeros((2, 2), np.uint8)), ("two", np.ones((2, 6), np.uint8))):
        table.add(Frame(name, name, np.zeros((*mask.shape, 3), np.uint8)), mask)
    table.close()
    with (tmp_path / "classes.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0][4:] == ["a, b", "c", "d"]
    assert [line[0] for line in lines[1:]] == ["one", "two", "total"]
    assert lines[-1][4:] == ["0.250000", "0.750000", "0.000000"]
    table.show_shares(2)
    said = capsys.readouterr().out
    assert "a, b" in said and "75.00" in said and "d  " not in said.partition("total")[2]


def test_links_in_a_run_lead_nothing_elsewhere(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    (run / "predict").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    elsewhere.mkdir()
    names = ("masks/a.png", "overlay/a.jpg", "overlay/film.mp4", "overlay/film.avi", "classes.csv")
    for name in names:
        path, victim = run / "predict" / name, elsewhere / Path(name).name
        path.parent.mkdir(exist_ok=True)
        victim.write_text("years")
        path.symlink_to(victim)

    pixels, mask = np.zeros((8, 16, 3), np.uint8), np.zeros((8, 16), np.uint8)
    table = outputs.ClassTable(run / "predict" / "classes.csv", ["a"])
    made = outputs.Drawings(run / "predict", ["a"], [(0, 0, 0)], masks=None, overlay=True, colour=False, alpha=0.5)
    for frame in (Frame("a.png", "a", pixels), Frame("film.mp4", "film", pixels, number=0)):
        table.add(frame, mask)
        made.draw(frame, mask)
    made.close()
    table.close()
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == {Path(name).name: "years" for name in names}
    assert len(frames_of(next(path for path in (run / "predict/overlay").glob("film.*") if not path.is_symlink()))) == 1
    assert not (run / "predict/masks/a.png").is_symlink() and not [*run.rglob(".kdc-new-*")]

    (run / "second").mkdir()
    (run / "second" / "masks").symlink_to(elsewhere)
    (run / "third").symlink_to(elsewhere)
    made = outputs.Drawings(run / "second", ["a"], [(0, 0, 0)], masks=None, overlay=True, colour=False, alpha=0.5)
    with pytest.raises(UsageError, match="masks is a link"):
        made.draw(Frame("a.png", "a", pixels), mask)
    made.close()
    with pytest.raises(UsageError, match="third is a link"):
        outputs.ClassTable(run / "third" / "classes.csv", ["a"])
