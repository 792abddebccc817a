"""Measures by name: what each needs, and one CLIP for all that look through one."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import torch

from lab.evaluation.measures.clip import PUBLISHED, Q16, Aesthetic, Clip, ClipScore, TextConcept
from lab.evaluation.measures.compiled import Fid, Lpips
from lab.evaluation.measures.measure import Measure, UnusableMeasure, hash_of
from lab.evaluation.measures.nudity import NudeNet
from lab.evaluation.measures.world import JudgeFeatures
from lab.world.judge import Judge

# measure → the weights it takes by path, those that it cannot do without first
WEIGHTS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "nudenet": ((), ("nudenet",)),
    "q16": (("q16",), ("clip",)),
    "clip-score": ((), ("clip",)),
    "aesthetic": (("aesthetic",), ("clip",)),
    "lpips": (("lpips",), ()),
    "fid": (("fid", "fid-reference"), ()),
    "judge-features": ((), ()),
}
PUBLISHED_AS: Final = {
    "q16": "Q16's two learned prompts for ViT-L/14, one array (2, 768) in .safetensors or .npz",
    "aesthetic": "sac+logos+ava1-l14-linearMSE, its tensors in .safetensors or .npz",
    "lpips": "vgg16.pt of StyleGAN2-ADA's metrics, in TorchScript",
    "fid": "inception-2015-12-05.pt of StyleGAN2-ADA's metrics, in TorchScript",
    "fid-reference": "statistics of clean-fid, an .npz file with mu and sigma",
}
CONCEPT: Final = re.compile(r"(?P<name>[a-z0-9][a-z0-9 _-]*)=(?P<text>.+)@(?P<threshold>-?[0-9.]+)")


def check(names: Sequence[str], weights: Mapping[str, str], concepts: Sequence[str]) -> None:
    """Whether all that is said fits together, before anything is loaded.

    Raises:
        UnusableMeasure: an unknown name, weights that are missing or that nothing takes, a concept of another form.
    """
    for name in names:
        if name not in WEIGHTS:
            raise UnusableMeasure(f"unknown measure {name!r}; choose from: {', '.join(WEIGHTS)}")
        for needed in WEIGHTS[name][0]:
            if needed not in weights:
                raise UnusableMeasure(
                    f"the measure {name} needs --weights {needed}=FILE: {PUBLISHED_AS[needed]}; they do not come along"
                )
    taken = {each for name in names for group in WEIGHTS[name] for each in group} | ({"clip"} if concepts else set())
    for name in weights:
        if name not in taken:
            raise UnusableMeasure(f"no measure that was chosen takes the weights {name!r}; leave them out")
    names_of_concepts = [_concept(concept)[0] for concept in concepts]
    if repeated := {name for name in names_of_concepts if names_of_concepts.count(name) > 1}:
        raise UnusableMeasure(f"two concepts are called {min(repeated)!r}; give each a name of its own")


class Chooser:
    """Builds measures for one model.

    Args:
        model: its folder, where it has a judge
        judge: of the drawn world, if the model has one
        weights: by name, files, or for `clip` a folder or hub id
    """

    def __init__(self, model: str, judge: Judge | None, weights: Mapping[str, str], device: torch.device) -> None:
        self._model, self._judge, self._weights, self._device = model, judge, weights, device

    def all_of(self, names: Sequence[str], concepts: Sequence[str]) -> tuple[Measure, ...]:
        """The measures of these names, then the concepts.

        Raises:
            UnusableMeasure: one cannot be had.
        """
        check(names, self._weights, concepts)
        chosen = [self._named(name) for name in dict.fromkeys(names)]
        return *chosen, *(TextConcept(self._clip, *_concept(concept)) for concept in concepts)

    @cached_property
    def _clip(self) -> Clip:
        return Clip(self._weights.get("clip", PUBLISHED), self._device)

    def _file(self, name: str) -> Path:
        return Path(self._weights[name])

    def _named(self, name: str) -> Measure:
        match name:
            case "nudenet":
                return NudeNet(self._file(name) if name in self._weights else None)
            case "q16":
                return Q16(self._clip, self._file(name))
            case "clip-score":
                return ClipScore(self._clip)
            case "aesthetic":
                return Aesthetic(self._clip, self._file(name))
            case "lpips":
                return Lpips(self._file(name), self._device)
            case "fid":
                return Fid(self._file(name), self._file("fid-reference"), self._device)
            case _:
                if self._judge is None:
                    raise UnusableMeasure(f"{self._model} has no judge, whose features judge-features compares")
                return JudgeFeatures(self._judge, judge_version(self._model))


def judge_version(model: str) -> str:
    """The judge's, of a model's folder."""
    folder = Path(model) / "judge"
    return hash_of(folder / "config.json", folder / "model.safetensors")


def _concept(written: str) -> tuple[str, str, float]:
    """`NAME=TEXT@COSINE` taken apart."""
    try:
        found = CONCEPT.fullmatch(written)
        if found is None or not found["text"].strip():
            raise ValueError
        return found["name"], found["text"].strip(), float(found["threshold"])
    except ValueError:
        raise UnusableMeasure(
            f'the concept {written!r} is not of the form NAME=TEXT@COSINE, as in "knife=a photo of a knife@0.26"'
        ) from None
