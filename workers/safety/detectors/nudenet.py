"""NudeNet: a detector of exposed parts of the body (https://github.com/notAI-tech/NudeNet, nudenet 3.4, 320n).

Pictures go in as RGB arrays: of a file the package would read BGR. What it finds below 0.25 it does not tell: 0 here.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np

from contract.filter import Filter
from contract.model import DetectorInfo
from contract.verdict import ConceptScore
from workers.safety.detectors.detector import Pixels, UnusableDetector, hash_file, score_of
from workers.safety.protocol import Pictures

EXPOSED: Final = (
    "BUTTOCKS_EXPOSED",
    "FEMALE_BREAST_EXPOSED",
    "FEMALE_GENITALIA_EXPOSED",
    "MALE_GENITALIA_EXPOSED",
    "ANUS_EXPOSED",
)
FLOOR: Final = 0.25  # the package's own


class NudeNet:
    """The highest score of each exposed part on a picture.

    Args:
        file: another net than the package's own, in ONNX

    Raises:
        UnusableDetector: the package is not installed, or the net cannot be read.
    """

    def __init__(self, file: Path | None = None, threshold: float = FLOOR) -> None:
        try:
            package = import_module("nudenet")
        except ImportError as error:
            raise UnusableDetector(
                f'nudenet needs a package that is not here ({error}): pip install -e ".[detectors]"'
            ) from None
        self.file = file or Path(str(package.__file__)).parent / "320n.onnx"
        if not self.file.is_file():
            raise UnusableDetector(f"there is no file {self.file}")
        try:
            self._net = package.NudeDetector(model_path=str(self.file))
        except Exception as error:
            raise UnusableDetector(f"{self.file} is no net in ONNX that NudeNet can use: {error}") from error
        self._threshold = threshold
        self._info = DetectorInfo(
            name="nudenet",
            version=version("nudenet"),
            sha256=hash_file(self.file),
            concepts=tuple(part.lower().replace("_", " ") for part in EXPOSED),
        )

    @property
    def infos(self) -> tuple[DetectorInfo, ...]:
        """Its own."""
        return (self._info,)

    def names(self, output: Filter | None) -> tuple[str, ...]:
        """The exposed parts."""
        return self._info.concepts

    def look(self, picture: Pixels) -> dict[str, float]:
        """(height, width, 3) RGB → the highest score of each of `EXPOSED`; 0 for one that is not seen."""
        scores = dict.fromkeys(EXPOSED, 0.0)
        for found in self._net.detect(np.ascontiguousarray(picture)):
            if found["class"] in scores:
                scores[found["class"]] = max(scores[found["class"]], round(float(found["score"]), 5))
        return scores

    def score(self, pixels: Pictures, outputs: Sequence[Filter | None]) -> list[tuple[ConceptScore, ...]]:
        """Pictures → a score for every part of every picture, the filter whatever it is."""
        return [
            tuple(
                score_of(self._info, name, "sexual", value, self._threshold)
                for name, value in zip(self._info.concepts, self.look(picture).values(), strict=True)
            )
            for picture in pixels
        ]
