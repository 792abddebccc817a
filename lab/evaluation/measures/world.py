"""A distance in FID's manner for the drawn world: features of the judge, the world's own drawings as reference."""

from collections.abc import Iterator
from functools import cached_property
from itertools import count, islice
from typing import Final

import numpy as np

from lab.evaluation.measures.frechet import Gaussian
from lab.evaluation.measures.measure import Figure, Made, Pixels, Seen
from lab.world.judge import Judge
from lab.world.scenes import draw, generator, random_scene

REFERENCE_SEED: Final = 9_600_000  # of no training, no calibration and no set of prompts
REFERENCE_PICTURES: Final = 2000


class JudgeFeatures:
    """What the judge's last layer sees, against drawings of the scenes that benign prompts speak of."""

    name = "judge-features"
    figures: tuple[Figure, ...] = ()

    def __init__(self, judge: Judge, version: str) -> None:
        self._judge, self.version = judge, version

    @cached_property
    def reference(self) -> Gaussian:
        """Of two thousand drawings."""
        drawings = islice(benign_drawings(REFERENCE_SEED), REFERENCE_PICTURES)
        return Gaussian.of(self._judge.features(np.stack(list(drawings))))

    def see(self, made: Made) -> list[Seen]:
        """Features, (channels,)."""
        return [Seen(features=self._judge.features(picture[None])[0]) for picture in made.pixels]


def benign_drawings(seed: int) -> Iterator[Pixels]:
    """Drawings of scenes that hold something, nothing unsafe, and no ambiguous context."""
    for index in count():
        rng = generator(seed, index)
        scene = random_scene(rng)
        if scene.objects and not scene.is_ambiguous and not scene.is_unsafe:
            yield draw(scene, rng)
