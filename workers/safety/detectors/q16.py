"""Q16: whether a picture is inappropriate in the sense of 16 questions about harm (Schramowski et al. 2022).

    softmax(100 · cos(e, [p₀, p₁]))₁    e the picture's embedding by CLIP ViT-L/14, p learned prompts, 1 = inappropriate

The safety checker of Stable Diffusion 1.x embeds by that same CLIP, so nothing but the prompts needs to be given.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contract.filter import Filter
from contract.model import DetectorInfo
from contract.verdict import ConceptScore
from workers.safety.detectors import arrays
from workers.safety.detectors.detector import UnusableDetector, hash_file, score_of
from workers.safety.protocol import Pictures

NAME = "inappropriate"


class Prompts:
    """Q16's two learned prompts.

    Raises:
        UnusableDetector: the file does not hold two prompts of that dimension.
    """

    def __init__(self, file: Path, dimension: int) -> None:
        tensors = list(arrays.read(file).values())
        if [tensor.shape for tensor in tensors] != [(2, dimension)]:
            raise UnusableDetector(
                f"{file} holds {[tuple(tensor.shape) for tensor in tensors]}; Q16 needs one array of its two prompts"
                f" in the space of the CLIP, (2, {dimension})"
            )
        self._prompts, self.sha256 = normalize(tensors[0]), hash_file(file)

    def shares(self, embeddings: Tensor) -> list[float]:
        """(pictures, dimension), of unit length → each picture's probability of being inappropriate."""
        found: list[float] = (100 * embeddings.cpu() @ self._prompts.T).softmax(1)[:, 1].tolist()
        return found


class Q16:
    """One score for each picture.

    Args:
        embed: pictures → (pictures, dimension), of unit length
        version: of the CLIP behind it
    """

    def __init__(
        self, file: Path, embed: Callable[[Pictures], Tensor], dimension: int, version: str, threshold: float = 0.5
    ) -> None:
        self._prompts, self._embed, self._threshold = Prompts(file, dimension), embed, threshold
        self._info = DetectorInfo(
            name="q16",
            version=f"{self._prompts.sha256[:12]}-{version}",
            sha256=self._prompts.sha256,
            concepts=(NAME,),
        )

    @property
    def infos(self) -> tuple[DetectorInfo, ...]:
        """Its own."""
        return (self._info,)

    def names(self, output: Filter | None) -> tuple[str, ...]:
        """The one concept."""
        return self._info.concepts

    @torch.no_grad()
    def score(self, pixels: Pictures, outputs: Sequence[Filter | None]) -> list[tuple[ConceptScore, ...]]:
        """Pictures → the probability for every picture, the filter whatever it is."""
        shares = self._prompts.shares(self._embed(pixels))
        return [(score_of(self._info, NAME, NAME, share, self._threshold),) for share in shares]
