"""Charts: ticks are round and cover, points stand where they belong, labels keep apart, words are escaped."""

import math
import re
from xml.etree import ElementTree

import pytest

from kdc.distill.charts import svg
from kdc.distill.charts.lines import Point, Series, line_chart
from kdc.distill.charts.svg import Scale, fitted, labels, log_ticks, short, signed, spread, ticks


def drawn(chart: str) -> dict[str, list[Point]]:
    """Return the points of a chart's lines by role."""
    lines = re.findall(r'<polyline class="line (\w+)" points="([^"]+)"', chart)
    return {role: [(float(x), float(y)) for x, y in (p.split(",") for p in path.split())] for role, path in lines}


def words(chart: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(chart).iter("text")]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.13, 0.47), (3, 3000), (-2, 5), (0.0, 0.3), (1e-6, 4e-6)])
def test_ticks_cover_the_range_with_round_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low + 1e-9 < found[1] + 1e-9 and found[-2] < high <= found[-1] + 1e-9 and 3 <= len(found) <= 8
    assert all(len(short(tick)) <= 5 for tick in found)
    within = ticks(low, high, 4, inside=True)
    assert low - 1e-9 <= within[0] and within[-1] <= high + 1e-9 and 2 <= len(within) <= 6


def test_a_range_of_one_value_has_one_tick() -> None:
    assert ticks(3, 3) == [3]
    assert fitted([3.0], (0, 10)).ticks == [2.5, 3.0, 3.5]


@pytest.mark.parametrize(
    ("low", "high", "digits", "found"),
    [
        (3, 40, (1, 2, 5), [2, 5, 10, 20, 50]),
        (0.6, 90, (1, 2, 5), [0.5, 1, 10, 100]),  # whole decades, and both ends
        (3, 3, (1, 2, 5), [2, 5]),
        (10, 1000, (1,), [10, 100, 1000]),
        (0.5, 30, (1,), [0.1, 1, 10, 100]),
        (0.011, 2e5, (1, 2, 5), [0.01, 0.1, 1, 10, 100, 1e3, 1e4, 1e5, 2e5]),
    ],
)
def test_logarithmic_ticks(low: float, high: float, digits: tuple[int, ...], found: list[float]) -> None:
    assert log_ticks(low, high, digits) == pytest.approx(found)
    scale = Scale(log_ticks(low, high, digits), (10.0, 110.0), log=True)
    assert scale(found[0]) == 10 and scale(found[-1]) == pytest.approx(110) and 10 <= scale(low) <= scale(high) <= 110


def test_of_very_many_decades_some_are_left_out_but_never_an_end() -> None:
    found = log_ticks(1e-40, 1.0, (1,))
    assert found[0] == pytest.approx(1e-40) and found[-1] == 1 and len(found) <= 11


def test_a_scale_goes_either_way_and_knows_what_it_holds() -> None:
    linear, log = Scale([0, 5, 10], (100, 0)), Scale([1, 10, 100], (0, 100), log=True)
    assert [linear(v) for v in (0, 5, 10)] == [100, 50, 0] and linear.holds(10) and not linear.holds(10.1)
    assert [log(v) for v in (1, 10, 100)] == pytest.approx([0, 50, 100])
    assert Scale([4, 4], (7, 9))(4) == 7


def test_a_fitted_scale_keeps_its_values_legible() -> None:
    assert fitted([1, 2], (0, 1), [(-100, 100)]).ticks == ticks(0, 3)  # at most as much again to each side
    assert fitted([1, 2], (0, 1), level=2.8).holds(2.8) and not fitted([1, 2], (0, 1), level=9).holds(9)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (40000, "40k"), (2e-5, "2e-05"), (1234, "1.234k"), (150, "150"), (-0.5, "-0.5")],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_signed_numbers() -> None:
    assert [signed(v) for v in (1.234, -1.234, 0.001, -0.001)] == ["+1.23", "\u22121.23", "0", "0"]


def test_labels_keep_apart_and_stay_above_the_bottom() -> None:
    assert spread([10, 50, 90], 100) == [10, 50, 90]
    assert spread([50, 10, 12], 100) == [50, 10, 25]
    assert spread([99, 98, 97], 100) == [100, 85, 70]
    assert spread([], 100) == []
    (first, second) = labels([(20, "after", "a"), (20, "before", "b<")], 5, 100)
    assert 'class="after name" x="5.0" y="24.0"' in first and 'y="39.0"' in second and ">b&lt;<" in second


def test_words_cannot_leave_their_place() -> None:
    evil = '<script>"&'
    page = svg.file(evil, 10, 10, [svg.text(0, 0, evil)])
    root = ElementTree.fromstring(page)
    assert root.get("aria-label") == evil and "<script" not in page
    assert [each.text for each in root if each.tag.endswith(("title", "text"))] == [evil, evil]
    chart = line_chart(evil, [Series(evil, [(0, 1), (1, 2)], "after")])
    assert words(chart)[-1] == evil and "<script" not in chart


def test_a_file_has_colours_for_light_and_for_dark() -> None:
    light, dark = svg.file("", 1, 1, []).split("@media(prefers-color-scheme:dark)")
    for name in ("ink", "paper", "soft", "grid", "alone", "teacher", "gain", "loss", "s0", f"s{svg.MOST_SERIES - 1}"):
        colours = [re.findall(rf"\.{name}{{color:(#\w{{6}})}}", half) for half in (light, dark)]
        assert len(colours[0]) == len(colours[1]) == 1 and colours[0] != colours[1]


def test_a_chart_puts_points_where_they_belong() -> None:
    series = [Series("a", [(0, 0.0), (100, 0.5)], "after"), Series("b", [(0, 0.5), (100, math.nan)], "before")]
    chart = line_chart("Validation", series, percent=True)
    points = drawn(chart)
    (x0, y0), (x1, y1) = points["after"]
    assert x0 < x1 and y0 > y1
    assert points["before"] == [(x0, y1)]  # what is not a number is left out
    assert 'aria-label="Validation: a ends at 50 %, b ends at 50 %"' in chart
    heights = sorted(float(y) for y in re.findall(r'class="\w+ name" x="[\d.]+" y="([\d.]+)"', chart))
    assert heights[1] - heights[0] >= 14


def test_long_curves_are_averaged_and_wide_ranges_logarithmic() -> None:
    chart = line_chart("Loss", [Series("a", [(i, 1000.0 / i) for i in range(1, 5001)], "after")])
    assert len(drawn(chart)["after"]) <= 240 and "step, log scale" in words(chart)
    pairs = line_chart("", [Series("a", [(i, i % 2) for i in range(480)], "after")])
    assert len({y for _, y in drawn(pairs)["after"]}) == 1  # the mean of every two


@pytest.mark.parametrize("points", [[], [(0, math.nan)], [(0, math.inf), (1, -math.inf)]])
def test_nothing_to_draw_is_no_chart(points: list[Point]) -> None:
    assert line_chart("empty", [Series("a", points, "after")]) == ""
    other = Series("b", [(0, 1.0), (1, 2.0)], "before")
    assert list(drawn(line_chart("one", [Series("a", points, "after"), other]))) == ["before"]


@pytest.mark.parametrize("value", [0.3, 0.0, -2.0])
def test_one_point_is_a_chart(value: float) -> None:
    chart = line_chart("one", [Series("a", [(7, value)], "after")])
    ((x, y),) = drawn(chart)["after"]
    assert 0 < x < 470 and 0 < y < 250 and {"7", "0", short(value)} <= set(words(chart))


@pytest.mark.parametrize(
    ("low", "high"), [(15.43, 15.49), (0.1, 0.9), (99990.0, 100003.0), (1e-4, 1.2e-4), (61.2, 61.2), (0.0, 40_000.0)]
)
def test_no_two_ticks_have_the_same_words(low: float, high: float) -> None:
    places = svg.ticks(low, high)
    words = svg.told_apart(places)
    assert len(set(words)) == len(places)
    assert all(len(word) <= 8 for word in words)
