"""LPIPS and FID, over the TorchScript nets that NVIDIA publishes for its own metrics; taken by path.

    LPIPS   ‖v(x) − v(x₀)‖², v VGG16's weighted features, x₀ the plain picture of the same seed  (Zhang et al. 2018)
    FID     the Fréchet distance of Inception's features from those of a reference                (Heusel et al. 2017)

| weights | published as | what is called |
|---|---|---|
| lpips | vgg16.pt | net(x, resize_images=False, return_lpips=True), x in 0..255 |
| fid | inception-2015-12-05.pt | net.layers((x − 128) / 128), x in 0..255, 299×299 |
| fid-reference | statistics of clean-fid, .npz with mu and sigma | |

FID resizes as clean-fid does (Parmar et al. 2022): each channel by PIL's bicubic filter in float. The packages lpips
and clean-fid would pull in torchvision and with it another torch; the nets say all that is needed.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lab.evaluation.measures.frechet import Gaussian
from lab.evaluation.measures.measure import Figure, Made, Pixels, Seen, UnusableMeasure, hash_of

INCEPTION_PX: Final = 299


def load_net(file: Path, device: torch.device) -> Any:
    """A net in TorchScript, in float32.

    Raises:
        UnusableMeasure: no such file, or it is none.
    """
    if not file.is_file():
        raise UnusableMeasure(f"there is no file {file}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the format has no successor these nets are in
            return torch.jit.load(str(file), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise UnusableMeasure(f"{file} is no net in TorchScript: {str(error).splitlines()[0]}") from None


class Lpips:
    """How far a picture lies from the plain one to the eye."""

    name = "lpips"
    reference = None
    figures = (Figure(title="LPIPS", score="lpips"),)

    def __init__(self, file: Path, device: torch.device) -> None:
        self._net, self._device, self.version = load_net(file, device), device, f"{file.name} {hash_of(file)}"
        with _told_as(file, self.name):
            self._distance(*[np.zeros((64, 64, 3), np.uint8)] * 2)

    def see(self, made: Made) -> list[Seen]:
        """Distances; none where there is no plain picture."""
        return [
            Seen() if plain is None else Seen({self.name: self._distance(picture, plain)})
            for picture, plain in zip(made.pixels, made.plain, strict=True)
        ]

    @torch.no_grad()
    def _distance(self, picture: Pixels, plain: Pixels) -> float:
        pair = torch.from_numpy(np.stack([picture, plain])).permute(0, 3, 1, 2).float().to(self._device)
        features = self._net(pair, resize_images=False, return_lpips=True)
        return round(float((features[0] - features[1]).square().sum()), 5)


class Fid:
    """Inception's features, against those of a reference."""

    name = "fid"
    figures: tuple[Figure, ...] = ()

    def __init__(self, file: Path, reference: Path, device: torch.device) -> None:
        self._net, self._device = load_net(file, device), device
        try:
            self.reference = Gaussian.read(reference)
        except (OSError, ValueError) as error:
            raise UnusableMeasure(f"the reference of FID cannot be read: {error}") from None
        self.version = f"{file.name} {hash_of(file)}, {reference.name} {hash_of(reference)}"
        with _told_as(file, self.name):
            found = self._features([np.zeros((8, 8, 3), np.uint8)]).shape[1]
        if found != len(self.reference.mean):
            raise UnusableMeasure(
                f"the net of FID has {found} features, its reference {len(self.reference.mean)}; take the statistics"
                " that were made with this net"
            )

    def see(self, made: Made) -> list[Seen]:
        """Features, (2048,) of the published net."""
        return [Seen(features=row) for row in self._features(made.pixels)]

    @torch.no_grad()
    def _features(self, pictures: Sequence[Pixels]) -> NDArray[np.float32]:
        pixels = torch.stack([_resized(picture) for picture in pictures]).to(self._device)
        features: NDArray[np.float32] = self._net.layers((pixels - 128) / 128).flatten(1).float().cpu().numpy()
        return features


@contextmanager
def _told_as(file: Path, measure: str) -> Iterator[None]:
    """A first call shows whether a net is the measure's."""
    try:
        yield
    except (RuntimeError, AttributeError, TypeError, IndexError) as error:
        why = str(error).splitlines()[0]
        raise UnusableMeasure(
            f"{file} is a net in TorchScript, but not the published one of {measure}: {why}"
        ) from None


def _resized(picture: Pixels) -> Tensor:
    """(3, 299, 299) in 0..255."""
    size = INCEPTION_PX, INCEPTION_PX
    channels = [
        Image.fromarray(channel.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        for channel in picture.transpose(2, 0, 1)
    ]
    return torch.from_numpy(np.stack([np.asarray(channel) for channel in channels])).clip(0, 255)
