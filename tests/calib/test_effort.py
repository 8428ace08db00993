"""How many images and groups there is time for: everything, else fewer images, else blocks together."""

from hypothesis import given
from hypothesis import strategies as st

from kdc.calib.effort import LEAST_GROUPS, LEAST_IMAGES, Pace, effort, enough_minutes, needed


def test_a_pace_is_read_from_two_passes() -> None:
    assert Pace.of((1, 5.0), (3, 9.0)) == Pace(3.0, 2.0)
    assert Pace.of((1, 5.0), (3, 4.0)) == Pace(4.0, 0.0)  # a first one that was disturbed
    assert Pace.of((1, 5.0), (1, 5.0)) == Pace(5.0, 0.0)  # there is but one image


def test_time_for_everything() -> None:
    plan = effort(Pace(0.1, 0.01), 85, 16, 6)
    assert plan.whole and plan.passes == int(360 / 0.26)
    assert round(plan.seconds, 6) == round(86 * 0.26, 6)


def test_fewer_images_come_first_then_blocks_together() -> None:
    fewer = effort(Pace(0.5, 0.3), 85, 16, 6)
    assert (fewer.images, fewer.groups) == (8, 85)
    together = effort(Pace(0.5, 1.2), 85, 16, 6)
    assert (together.images, together.groups) == (LEAST_IMAGES, 49)
    least = effort(Pace(240, 1), 85, 16, 6)
    assert (least.images, least.groups) == (LEAST_IMAGES, LEAST_GROUPS)
    assert least.seconds > 360, "it cannot be shorter, and says so"


@given(
    fixed=st.floats(0, 20),
    image=st.floats(0, 5),
    blocks=st.integers(0, 300),
    images=st.integers(1, 16),
    minutes=st.floats(0.1, 60),
)
def test_it_stays_within_its_time_or_is_the_least(
    fixed: float, image: float, blocks: int, images: int, minutes: float
) -> None:
    plan = effort(Pace(fixed, image), blocks, images, minutes)
    assert 1 <= plan.images <= images and min(blocks, 1) <= plan.groups <= blocks
    least = plan.images <= LEAST_IMAGES and plan.groups <= LEAST_GROUPS
    assert least or plan.seconds <= 60 * minutes * 1.001
    assert plan.passes >= needed(plan.groups)


@given(fixed=st.floats(0, 20), image=st.floats(0, 5), blocks=st.integers(1, 300), images=st.integers(1, 16))
def test_the_time_that_is_advised_is_enough(fixed: float, image: float, blocks: int, images: int) -> None:
    pace = Pace(fixed, image)
    assert effort(pace, blocks, images, enough_minutes(pace, blocks, images) or 1).whole
