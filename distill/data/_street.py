"""Drawing a street-like scene from random numbers.

A scene is a small perspective drawing: a camera at height 1 over a flat road; a point at lateral position X and height
Y appears at ``(vanish + X*s, horizon + (1-Y)*s)``, where s (pixels a metre) is its scale at that depth. Shapes are
painted far to near into one map of instance numbers; look-up tables then give each instance its class, colour and
texture. Colours are shared between classes and drawn anew for each scene, so that texture, shape and context decide.
"""

from functools import lru_cache

import cv2
import numpy as np

from . import IGNORE

#: The classes and their colours in pictures.
CLASSES = {
    "sky": (70, 130, 180),
    "building": (110, 70, 70),
    "road": (128, 64, 128),
    "pavement": (244, 35, 232),
    "marking": (230, 230, 230),
    "tree": (60, 142, 35),
    "pole": (190, 190, 60),
    "sign": (250, 170, 30),
    "fence": (190, 153, 153),
    "car": (0, 0, 190),
    "person": (220, 20, 60),
}
SKY, BUILDING, ROAD, PAVEMENT, MARKING, TREE, POLE, SIGN, FENCE, CAR, PERSON = range(len(CLASSES))
_TEXTURE = 256  # side of a texture tile
# Colours that several classes share: greys for road, wall, pavement and pole, browns for wall, fence and trunk.
_GREY = ((95, 95, 98), (120, 118, 115), (145, 142, 140), (170, 168, 165))
_WARM = ((150, 90, 70), (170, 130, 95), (190, 165, 130), (125, 100, 85))
_GREEN = ((70, 105, 55), (95, 120, 70), (60, 85, 60), (115, 125, 75))
_VIVID = ((170, 45, 45), (50, 75, 150), (215, 180, 60), (225, 225, 220), (45, 45, 50), (60, 120, 110))
CLOUD, BRICK, PANEL, GRAIN, SLAB, LEAF, BARS, CLOTH, PLAIN = range(9)


class _Draw:
    """Numbers of one scene, drawn in blocks: a call of the generator for each would cost more than the drawing."""

    def __init__(self, entropy: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(entropy)
        self._block = iter(())

    def unit(self) -> float:
        value = next(self._block, None)
        if value is None:
            self._block = iter(self.rng.random(512).tolist())
            value = next(self._block)
        return value

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def chance(self, share: float) -> bool:
        return self.unit() < share

    def whole(self, low: int, high: int) -> int:
        return low + int((high - low + 1) * self.unit())

    def colour(self, *families: tuple[tuple[int, int, int], ...]) -> tuple[float, float, float]:
        family = families[self.whole(0, len(families) - 1)]
        r, g, b = family[self.whole(0, len(family) - 1)]
        gain, tint = self.between(0.85, 1.15), self.between(-8, 8)
        return r * gain + tint, g * gain, b * gain - tint


class _Canvas:
    """The map of instance numbers, with each instance's class, colour and texture, and the camera."""

    def __init__(self, height: int, width: int, draw: _Draw) -> None:
        self.height, self.width, self.draw = height, width, draw
        self.horizon = height * draw.between(0.34, 0.48)
        self.vanish = width * draw.between(0.35, 0.65)
        self.kerb = draw.between(2.2, 3.4)  # half the road's width
        self.ids = np.zeros((height, width), np.uint8)
        self.label = [SKY]
        self.colour: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)]
        self.texture = [CLOUD]

    def instance(self, label: int, colour: tuple[float, float, float], texture: int = PLAIN) -> int:
        if len(self.label) == 256:  # the map is uint8; no scene comes near
            return 255
        self.label.append(label)
        self.colour.append(colour)
        self.texture.append(texture)
        return len(self.label) - 1

    def at(self, x: float, y: float, s: float) -> tuple[int, int]:
        """Project lateral position ``x`` and height ``y`` at scale ``s``."""
        return round(self.vanish + x * s), round(self.horizon + (1.0 - y) * s)

    def quad(self, number: int, *points: tuple[float, float, float]) -> None:
        cv2.fillPoly(self.ids, [np.array([self.at(*p) for p in points], np.int32)], number)

    def upright(self, number: int, x: float, half: float, low: float, high: float, s: float) -> None:
        """Fill a rectangle that faces the camera; never thinner than a pixel."""
        (x0, y1), (x1, y0) = self.at(x - half, low, s), self.at(x + half, high, s)
        cv2.rectangle(self.ids, (x0, y0), (max(x0, x1 - 1), y1), number, -1)

    def disc(self, number: int, x: float, y: float, rx: float, ry: float, s: float) -> None:
        cv2.ellipse(self.ids, self.at(x, y, s), (max(1, round(rx * s)), max(1, round(ry * s))), 0, 0, 360, number, -1)


def scene(size: tuple[int, int], entropy: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene: image uint8 H,W,3 RGB and label uint8 H,W with 255 on the ego car and the camera's blind edge."""
    draw = _Draw(entropy)
    canvas = _Canvas(*size, draw)
    canvas.colour[0] = draw.colour(((150, 180, 215),), ((190, 192, 195),), ((215, 200, 180),))
    _ground(canvas)
    _street_sides(canvas)
    _objects(canvas)
    image = _render(canvas)
    label = np.array(canvas.label, np.uint8)[canvas.ids]
    _ignored(canvas, image, label)
    return image, label


def _ground(c: _Canvas) -> None:
    draw, near = c.draw, c.height * 2.0
    hills = (
        c.instance(TREE, draw.colour(_GREEN), LEAF)
        if draw.chance(0.6)
        else c.instance(BUILDING, draw.colour(_GREY), PANEL)
    )
    step = c.width // 8
    tops = [c.horizon - c.height * draw.between(0.0, 0.09) for _ in range(10)]
    line = [(i * step, round(top)) for i, top in enumerate(tops)]
    cv2.fillPoly(c.ids, [np.array([(0, c.height), *line, (c.width * 2, c.height)], np.int32)], hills)

    # pavement, and the road on it
    pavement = c.instance(PAVEMENT, draw.colour(_GREY, _WARM), SLAB)
    cv2.rectangle(c.ids, (0, round(c.horizon)), (c.width, c.height), pavement, -1)
    road = c.instance(ROAD, draw.colour(_GREY), GRAIN)
    c.quad(road, (-c.kerb, 0, 1), (c.kerb, 0, 1), (c.kerb, 0, near), (-c.kerb, 0, near))

    # the middle line, dashed or solid
    paint = c.instance(MARKING, draw.colour(((215, 215, 210),), _GREY[3:]), GRAIN)
    half, s, dash = 0.13, 3.0, draw.between(1.25, 1.5)
    solid = draw.chance(0.3)
    while s < near:
        far_x = 0.0
        c.quad(paint, (far_x - half, 0, s), (far_x + half, 0, s), (half, 0, s * dash), (-half, 0, s * dash))
        s *= dash * (1.0 if solid else 1.35)

    if draw.chance(0.35):  # a zebra crossing
        s = c.height * draw.between(0.1, 0.4)
        x = -c.kerb + 0.2
        while x < c.kerb - 0.3:
            c.quad(paint, (x, 0, s), (x + 0.3, 0, s), (x + 0.3, 0, s * 1.3), (x, 0, s * 1.3))
            x += 0.6


def _street_sides(c: _Canvas) -> None:
    """Walls along both sides, far to near, with gaps; fences before some of them."""
    draw = c.draw
    for side in (-1, 1):
        wall = c.kerb + draw.between(1.2, 2.6)
        s = draw.between(1.5, 3.0)
        while s < c.height:
            reach = s * draw.between(1.35, 2.2)
            x = side * wall
            if draw.chance(0.72):
                _building(c, x, side, s, reach)
            if draw.chance(0.4):
                fence = c.instance(FENCE, draw.colour(_GREY, _WARM, _GREEN), BARS)
                x -= side * draw.between(0.3, 0.8)
                tall = draw.between(0.6, 1.1)
                c.quad(fence, (x, 0, s), (x, 0, reach), (x, tall, reach), (x, tall, s))
            s = reach


def _building(c: _Canvas, x: float, side: int, s: float, reach: float) -> None:
    draw = c.draw
    tall = draw.between(1.8, 5.5)
    texture = (BRICK, PANEL, PLAIN)[draw.whole(0, 2)]
    red, green, blue = draw.colour(_WARM, _GREY, _WARM, _GREY, _GREEN)
    wall = c.instance(BUILDING, (red, green, blue), texture)
    front = c.instance(BUILDING, (red * 0.8, green * 0.8, blue * 0.8), texture)
    c.quad(front, (x, 0, s), (x + side * 40, 0, s), (x + side * 40, tall, s), (x, tall, s))
    c.quad(wall, (x, 0, s), (x, 0, reach), (x, tall, reach), (x, tall, s))
    if s < c.height * 0.05:
        return
    glass = c.instance(BUILDING, draw.colour(((60, 65, 75),), ((120, 140, 165),), _VIVID))
    columns, rows = draw.whole(1, 3), min(4, int(tall))
    windows = []
    for i in range(columns):  # depth runs evenly in 1/s, as on a real wall
        a, b = (1 / (1 / s + (1 / reach - 1 / s) * (i + t) / columns) for t in (0.25, 0.75))
        for j in range(rows):
            low, high = (j + 0.35) * tall / rows, (j + 0.8) * tall / rows
            windows.append(np.array([c.at(x, low, a), c.at(x, low, b), c.at(x, high, b), c.at(x, high, a)], np.int32))
    cv2.fillPoly(c.ids, windows, glass)


def _objects(c: _Canvas) -> None:
    """Trees, poles, signs, people and cars, painted far to near so that the near ones hide the far ones."""
    draw = c.draw
    kinds = (
        [_tree] * draw.whole(1, 5)
        + [_pole] * draw.whole(2, 6)
        + [_person] * draw.whole(2, 7)
        + [_car] * draw.whole(1, 5)
    )
    far, near = np.log(c.height * 0.05), np.log(c.height * 0.42)
    placed = sorted((float(np.exp(draw.between(far, near))), i) for i in range(len(kinds)))
    for s, i in placed:
        kinds[i](c, s, -1 if draw.chance(0.5) else 1)


def _tree(c: _Canvas, s: float, side: int) -> None:
    draw = c.draw
    x, stem, r = side * (c.kerb + draw.between(0.4, 2.5)), draw.between(1.2, 2.2), draw.between(0.6, 1.2)
    c.upright(c.instance(TREE, draw.colour(_WARM, _GREY[:2]), LEAF), x, 0.09, 0, stem, s)
    crown = c.instance(TREE, draw.colour(_GREEN, _GREEN, _GREEN, _WARM), LEAF)
    for _ in range(3):
        middle, height = x + draw.between(-0.5, 0.5) * r, stem + draw.between(0, 1) * r
        c.disc(crown, middle, height, r * 0.75, r * draw.between(0.6, 0.9), s)


def _pole(c: _Canvas, s: float, side: int) -> None:
    draw = c.draw
    x, tall = side * (c.kerb + draw.between(0.1, 0.9)), draw.between(1.6, 3.6)
    c.upright(c.instance(POLE, draw.colour(_GREY, _WARM, _GREEN)), x, 0.05, 0, tall, s)
    if tall > 2.9:  # a lamp with its arm over the road
        pole = c.instance(POLE, draw.colour(_GREY))
        c.upright(pole, x - side * 0.4, 0.4, tall - 0.08, tall, s)
    elif draw.chance(0.8):
        sign = c.instance(SIGN, draw.colour(_VIVID, _VIVID, _GREY))
        half = draw.between(0.28, 0.42)
        if draw.chance(0.5):
            c.disc(sign, x, tall, half, half, s)
        else:
            c.upright(sign, x, half * draw.between(0.8, 1.6), tall - half, tall + half, s)


def _person(c: _Canvas, s: float, side: int) -> None:
    draw = c.draw
    x = side * draw.between(c.kerb * 0.5, c.kerb + 1.8)
    tall, wide = draw.between(1.0, 1.35), draw.between(0.15, 0.22)
    legs = c.instance(PERSON, draw.colour(_GREY[:2], _VIVID, _WARM), CLOTH)
    coat = c.instance(PERSON, draw.colour(_VIVID, _WARM, _GREY, _GREEN), CLOTH)
    c.upright(legs, x - wide * 0.5, wide * 0.38, 0, tall * 0.5, s)
    c.upright(legs, x + wide * 0.5, wide * 0.38, 0, tall * 0.48, s)
    c.disc(coat, x, tall * 0.64, wide, tall * 0.22, s)
    c.disc(c.instance(PERSON, draw.colour(_WARM)), x, tall * 0.93, wide * 0.55, tall * 0.085, s)


def _car(c: _Canvas, s: float, side: int) -> None:
    draw = c.draw
    x, half, tall = side * draw.between(0.7, c.kerb - 0.2), draw.between(0.6, 0.8), draw.between(0.85, 1.1)
    body = c.instance(CAR, draw.colour(_VIVID, _VIVID, _GREY))
    glass = c.instance(CAR, draw.colour(((60, 65, 75),), ((120, 140, 165),)))
    tyre = c.instance(CAR, (35, 35, 38))

    for wheel in (-0.75, 0.75):
        c.upright(tyre, x + wheel * half, half * 0.18, 0, 0.3, s)
    c.upright(body, x, half, 0.18, tall * 0.6, s)
    for part, foot, top, low, high in ((body, 0.9, 0.65, 0.55, 1.0), (glass, 0.72, 0.55, 0.6, 0.93)):
        below, above = tall * low, tall * high
        lower = (x - half * foot, below, s), (x + half * foot, below, s)
        c.quad(part, *lower, (x + half * top, above, s), (x - half * top, above, s))

    lamp = c.instance(CAR, draw.colour(_VIVID[:1], ((235, 230, 200),)))
    for lamp_x in (-0.82, 0.82):
        c.upright(lamp, x + lamp_x * half, half * 0.12, tall * 0.4, tall * 0.5, s)


@lru_cache(maxsize=1)
def _textures() -> np.ndarray:
    """Return the texture tiles, int16 (texture, side, side), equal on every machine."""
    rng = np.random.default_rng(20240229)
    n = _TEXTURE
    y, x = np.mgrid[:n, :n]
    noise = rng.normal(size=(n, n)).astype(np.float32)

    def smooth(sigma: float) -> np.ndarray:
        margin = 64  # so that the tile's edges meet
        soft = cv2.GaussianBlur(np.pad(noise, margin, mode="wrap"), (0, 0), sigma)[margin:-margin, margin:-margin]
        return soft / soft.std()

    joints = (y % 4 == 0) | ((x + 4 * (y // 4 % 2)) % 8 == 0)
    tiles = {
        CLOUD: 7 * smooth(9),
        BRICK: np.where(joints, 20, -5) + 6 * noise,
        PANEL: np.where(x % 7 < 2, -16, 5) + 3 * noise,
        GRAIN: 11 * noise,
        SLAB: np.where((y % 5 == 0) | ((x + y) % 11 == 0), -17, 4) + 4 * noise,
        LEAF: 22 * smooth(1.2),
        BARS: np.where(x % 4 < 2, 16, -24) + 3 * noise,
        CLOTH: 9 * smooth(2),
        PLAIN: 3 * noise,
    }
    return np.stack([tiles[i] for i in range(len(tiles))]).astype(np.int16)


def _render(c: _Canvas) -> np.ndarray:
    """Turn instances into pixels: colour, texture, light, shadow, haze, blur and sensor noise."""
    draw, (height, width) = c.draw, c.ids.shape
    flat = np.array(c.colour, np.float32)[c.ids]
    oy, ox = draw.whole(0, _TEXTURE - 1), draw.whole(0, _TEXTURE - 1)
    rows = (np.arange(height)[:, None] + oy) % _TEXTURE
    columns = (np.arange(width)[None] + ox) % _TEXTURE
    grain = _textures()[np.array(c.texture, np.uint8)[c.ids], rows, columns].astype(np.float32)
    flat += grain[..., None]

    # light from one side to the other
    light = np.linspace(draw.between(0.75, 1.1), draw.between(0.75, 1.1), width, dtype=np.float32)[None].repeat(
        height, 0
    )
    for _ in range(draw.whole(0, 3)):  # shadows on the ground
        s, x = c.height * draw.between(0.08, 0.5), draw.between(-4, 4)
        corners = ((x, 0, s), (x + draw.between(0.5, 3), 0, s), (x + 2.5, 0, s * 1.8), (x - 1, 0, s * 1.6))
        shade = light.copy()
        cv2.fillPoly(shade, [np.array([c.at(*p) for p in corners], np.int32)], 0.55)
        light = np.minimum(light, shade)
    flat *= light[..., None]

    # the camera: haze, blur, exposure and noise
    depth = np.abs(np.arange(height, dtype=np.float32) - c.horizon) / height
    haze = draw.between(0.0, 0.35) * np.exp(-depth * 9)[:, None, None]
    flat += (np.array(c.colour[0], np.float32) - flat) * haze
    sigma = draw.between(0.25, 0.85) * max(1.0, height / 192)
    flat = cv2.GaussianBlur(flat, (0, 0), sigma)
    flat *= np.array([draw.between(0.93, 1.07) for _ in range(3)], np.float32) * draw.between(0.75, 1.2)

    oy, ox = draw.whole(0, _TEXTURE - 1), draw.whole(0, _TEXTURE - 1)
    noise = _textures()[GRAIN][(rows + oy) % _TEXTURE, (columns + ox) % _TEXTURE].astype(np.float32)
    flat += noise[..., None] * draw.between(0.1, 0.5)
    return np.clip(flat, 0, 255).astype(np.uint8)


def _ignored(c: _Canvas, image: np.ndarray, label: np.ndarray) -> None:
    """Add what a real recording leaves unlabelled: the ego car's bonnet and a blind edge of the camera."""
    draw, (height, width) = c.draw, label.shape
    bonnet = np.zeros_like(label)
    centre = (round(width * draw.between(0.42, 0.58)), height)
    cv2.ellipse(bonnet, centre, (round(width * 0.42), round(height * draw.between(0.05, 0.11))), 0, 180, 360, 1, -1)
    shine = np.array(draw.colour(_GREY, _VIVID), np.float32).clip(0, 255)
    image[bonnet == 1] = shine.astype(np.uint8)
    edge = max(1, width // 64)
    blind = slice(0, edge) if draw.chance(0.5) else slice(width - edge, width)
    image[:, blind] = 0
    label[bonnet == 1] = IGNORE
    label[:, blind] = IGNORE
