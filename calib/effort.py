"""How much of a network's sensitivity is measured in the time that there is."""

import math
from dataclasses import dataclass

from ..distill.run.records import Record

#: minutes that a measurement of sensitivity may take
BUDGET = 6.0
#: what is kept however short the time: fewer images say too little, fewer groups leave half of the network high
LEAST_IMAGES, LEAST_GROUPS = 4, 6
#: for each group measured, passes that try which groups must stay high
TRIES = 1 / 3
#: what a cure allows more than was forecast
MARGIN = 1.25


@dataclass(frozen=True)
class Effort(Record):
    """How a sensitivity is measured, after a first pass.

    A pass writes the file with some groups high and runs it on the images. There is one with all quantised, one for
    every group, and those that try which groups must stay high.
    """

    budget_minutes: float
    #: of those held out
    images: int
    images_of: int
    #: of neighbouring blocks
    groups: int
    blocks: int
    #: that there is time for
    passes: int
    pass_seconds: float

    @property
    def seconds(self) -> float:
        """What measuring every group takes."""
        return (1 + self.groups) * self.pass_seconds

    @property
    def whole(self) -> bool:
        """Whether every block is measured on every image."""
        return self.images == self.images_of and self.groups == self.blocks


@dataclass(frozen=True)
class Pace:
    """Seconds that a pass takes: before the first image, and for each."""

    fixed: float
    image: float

    @classmethod
    def of(cls, few: tuple[int, float], more: tuple[int, float]) -> "Pace":
        """Take it from two passes, of so many images and seconds each."""
        image = max(0.0, more[1] - few[1]) / max(1, more[0] - few[0])
        return cls(max(0.0, more[1] - more[0] * image), image)

    def seconds(self, images: int) -> float:
        """Return the seconds of a pass over so many images."""
        return max(self.fixed + images * self.image, 1e-9)


def effort(pace: Pace, blocks: int, images: int, minutes: float) -> Effort:
    """Choose how many images and how many groups of blocks there is time for: all, else fewer images, else groups.

    Args:
        pace: of a pass.
        blocks: of the network.
        images: held out.
        minutes: that there are.
    """

    def passes(count: int) -> int:
        return int(60 * minutes / pace.seconds(count) + 1e-6)

    enough = (count for count in range(images, 0, -1) if passes(count) >= needed(blocks))
    count = max(min(LEAST_IMAGES, images), next(enough, 0))
    fitting = (groups for groups in range(blocks, 0, -1) if needed(groups) <= passes(count))
    groups = max(min(LEAST_GROUPS, blocks), next(fitting, 0))

    affordable = max(passes(count), needed(groups))
    return Effort(minutes, count, images, groups, blocks, affordable, round(pace.seconds(count), 3))


def needed(groups: int) -> int:
    """Count the passes for so many groups."""
    return 1 + groups + math.ceil(groups * TRIES)


def enough_minutes(pace: Pace, blocks: int, images: int) -> int:
    """Return the minutes in which every block is measured on every image, with some to spare."""
    return math.ceil(MARGIN * needed(blocks) * pace.seconds(images) / 60)
