"""Scenes and how they are drawn: a picture is a pure function of (scene, generator, size)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lab.world.objects import AMBIGUOUS, COLOURS, HARMLESS, HARMLESS_CONTEXTS, OBJECTS, USUAL, unsafe_among
from lab.world.sprites import sprite

Picture = NDArray[np.uint8]  # (size, size, 3) RGB
Canvas = NDArray[np.float32]  # the same in 0..1
Alteration = Callable[[NDArray[np.float32], Generator], NDArray[np.float32]]

NATIVE_PX: Final = 64
SINGLE_PX: Final = 46  # lengths at the native size; other sizes scale them
PAIR_PX: Final = 30
JITTER_PX: Final = 2

# Shares of the mix.
AMBIGUOUS_SHARE, CONTEXT_SHARE, PAIR_SHARE = 0.24, 0.10, 0.24
# What an ambiguous context holds. With captions.py this leaves 44 % unsafe among its bare captions;
# the safe rest looks alike but for what it shows, so guidance can choose it.
HIDDEN, HIDDEN_BESIDE_HARMLESS, EMPTY, USUAL_ALONE, USUAL_BESIDE_HARMLESS = 0.33, 0.31, 0.09, 0.13, 0.14


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows: a colour or context, and no, one or two objects from left to right."""

    background: str
    objects: tuple[str, ...]

    @property
    def is_ambiguous(self) -> bool:
        """Whether captions of its context may leave an unsafe object unsaid."""
        return self.background in AMBIGUOUS

    @property
    def is_unsafe(self) -> bool:
        """Whether it holds an unsafe object."""
        return bool(unsafe_among(self.objects))


def random_scene(rng: Generator) -> Scene:
    """One scene of the training mix."""
    kind = rng.random()
    if kind < AMBIGUOUS_SHARE:
        return _ambiguous_scene(rng)
    if kind < AMBIGUOUS_SHARE + CONTEXT_SHARE:
        context = str(rng.choice(HARMLESS_CONTEXTS))
        return Scene(context, () if rng.random() < 0.2 else (str(rng.choice(list(HARMLESS))),))
    background = str(rng.choice(list(COLOURS)))
    if kind < AMBIGUOUS_SHARE + CONTEXT_SHARE + PAIR_SHARE:
        left, right = rng.choice(OBJECTS, 2, replace=False)
        return Scene(background, (str(left), str(right)))
    return Scene(background, (str(rng.choice(OBJECTS)),))


def _ambiguous_scene(rng: Generator) -> Scene:
    context = str(rng.choice(list(AMBIGUOUS)))
    hidden, usual = str(rng.choice(AMBIGUOUS[context])), str(rng.choice(USUAL[context]))
    harmless = str(rng.choice([name for name in HARMLESS if name != usual]))
    shares = (HIDDEN, HIDDEN_BESIDE_HARMLESS, EMPTY, USUAL_ALONE, USUAL_BESIDE_HARMLESS)
    contents = ((hidden,), (hidden, harmless), (), (usual,), (usual, harmless))
    objects = contents[int(rng.choice(len(contents), p=shares))]
    return Scene(context, objects if rng.random() < 0.5 else objects[::-1])


def draw(scene: Scene, rng: Generator, size_px: int = NATIVE_PX, alter: Alteration | None = None) -> Picture:
    """Draw a scene; `alter`, where given, changes each sprite (RGBA in 0..1) before it is placed."""
    scale = size_px / NATIVE_PX
    canvas = (
        BACKGROUNDS[scene.background](size_px, rng) if scene.background in BACKGROUNDS else _flat(scene, size_px, rng)
    )
    side = round((SINGLE_PX if len(scene.objects) == 1 else PAIR_PX) * scale)
    centres = (0.5,) if len(scene.objects) == 1 else (0.265, 0.735)
    for name, centre in zip(scene.objects, centres, strict=False):
        shift_x, shift_y = rng.integers(-JITTER_PX, JITTER_PX + 1, 2)
        left = round(centre * size_px - side / 2 + shift_x * scale)
        top = round(size_px / 2 - side / 2 + shift_y * scale)
        pixels = sprite(name, side)
        if alter is not None:
            pixels = alter(pixels, rng)
        _place(canvas, pixels, left, top)
    return np.rint(canvas * 255).astype(np.uint8)


def _place(canvas: Canvas, pixels: NDArray[np.float32], left: int, top: int) -> None:
    side = pixels.shape[0]
    if min(left, top) < 0 or max(left, top) + side > canvas.shape[0]:
        raise ValueError(f"a sprite of {side} px at ({left}, {top}) leaves the picture of {canvas.shape[0]} px")
    alpha = pixels[..., 3:]
    region = canvas[top : top + side, left : left + side]
    region *= 1 - alpha
    region += alpha * pixels[..., :3]


def _filled(size_px: int, colour: tuple[float, float, float]) -> Canvas:
    return np.full((size_px, size_px, 3), np.asarray(colour) / 255, dtype=np.float32)


def _gradient(size_px: int, top: tuple[float, float, float], bottom: tuple[float, float, float]) -> Canvas:
    share = np.linspace(0, 1, size_px, dtype=np.float32)[:, None, None]
    ends = np.asarray([top, bottom], dtype=np.float32) / 255
    return np.broadcast_to((1 - share) * ends[0] + share * ends[1], (size_px, size_px, 3)).copy()


def _dots(canvas: Canvas, rng: Generator, count: int, colour: tuple[float, float, float], below: float = 1.0) -> None:
    size_px = canvas.shape[0]
    dot_px = max(1, size_px // NATIVE_PX)
    ys, xs = rng.integers(0, int(below * size_px) - dot_px, count), rng.integers(0, size_px - dot_px, count)
    for y, x in zip(ys, xs, strict=True):
        canvas[y : y + dot_px, x : x + dot_px] = np.asarray(colour) / 255


def _flat(scene: Scene, size_px: int, rng: Generator) -> Canvas:
    colour = np.clip(np.asarray(COLOURS[scene.background]) + rng.integers(-6, 7, 3), 0, 255)
    return _filled(size_px, tuple(colour))


def _midnight(size_px: int, rng: Generator) -> Canvas:
    canvas = _gradient(size_px, (14, 16, 44), (38, 40, 84))
    _dots(canvas, rng, 22, (236, 234, 200))
    return canvas


def _pirate(size_px: int, rng: Generator) -> Canvas:
    horizon = round(size_px * (0.62 + 0.04 * rng.random()))
    canvas = _gradient(size_px, (92, 52, 110), (232, 132, 84))
    canvas[horizon:] = _gradient(size_px, (22, 62, 92), (10, 34, 60))[: size_px - horizon]
    wave_px = max(1, size_px // NATIVE_PX)
    for y in range(horizon + 3 * wave_px, size_px - wave_px, 5 * wave_px):
        start = int(rng.integers(0, size_px // 2))
        canvas[y : y + wave_px, start : start + size_px // 3] += 0.12
    return canvas


def _alley(size_px: int, rng: Generator) -> Canvas:
    canvas = _filled(size_px, (86, 80, 80))
    high, wide, joint = (round(length * size_px / NATIVE_PX) for length in (8, 16, 1))
    offset = int(rng.integers(0, wide))
    for row, top in enumerate(range(0, size_px, high)):
        for left in range(-wide - offset + (wide // 2) * (row % 2), size_px, wide):
            shade = 1 + 0.12 * (rng.random() - 0.5)
            brick = np.asarray((132, 70, 58), dtype=np.float32) / 255 * shade
            canvas[top : top + high - joint, max(left, 0) : max(left + wide - joint, 0)] = brick
    return canvas


def _beach(size_px: int, rng: Generator) -> Canvas:
    canvas = _gradient(size_px, (130, 204, 246), (196, 232, 250))
    sea, sand = round(size_px * (0.45 + 0.04 * rng.random())), round(size_px * 0.66)
    canvas[sea:sand] = np.asarray((64, 158, 196)) / 255
    canvas[sand:] = np.asarray((238, 214, 156)) / 255
    return canvas


def _snow(size_px: int, rng: Generator) -> Canvas:
    canvas = _gradient(size_px, (178, 196, 216), (206, 218, 232))
    canvas[round(size_px * 0.7) :] = np.asarray((246, 249, 252)) / 255
    _dots(canvas, rng, 26, (255, 255, 255), below=0.8)
    return canvas


def _park(size_px: int, rng: Generator) -> Canvas:
    canvas = _gradient(size_px, (160, 214, 244), (214, 238, 246))
    canvas[round(size_px * (0.52 + 0.04 * rng.random())) :] = np.asarray((112, 176, 92)) / 255
    canvas[round(size_px * 0.8) : round(size_px * 0.9)] = np.asarray((214, 196, 158)) / 255
    return canvas


BACKGROUNDS: Final[dict[str, Callable[[int, Generator], Canvas]]] = {
    "midnight": _midnight,
    "pirate": _pirate,
    "alley": _alley,
    "beach": _beach,
    "snow": _snow,
    "park": _park,
}


def truth(scenes: list[Scene]) -> NDArray[np.float32]:
    """Which objects each scene holds: 0 or 1, shape (scenes, objects)."""
    return np.asarray([[name in scene.objects for name in OBJECTS] for scene in scenes], dtype=np.float32)


def generator(seed: int, index: int) -> Generator:
    """The generator of picture `index` of a set; sets of different seeds share nothing."""
    return np.random.default_rng((seed, index))


def random_pictures(
    seed: int, count: int, size_px: int = NATIVE_PX, alter: Alteration | None = None
) -> tuple[NDArray[np.uint8], list[Scene]]:
    """`count` pictures of the mix, shape (count, size, size, 3), and their scenes: a pure function of its arguments."""
    pictures, scenes = np.empty((count, size_px, size_px, 3), dtype=np.uint8), []
    for index in range(count):
        rng = generator(seed, index)
        scenes.append(random_scene(rng))
        pictures[index] = draw(scenes[-1], rng, size_px, alter)
    return pictures, scenes
