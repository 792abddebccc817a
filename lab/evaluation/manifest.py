"""What a run was asked for, what it found and what it ran under: enough for the same numbers again, to the digit."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field

from contract.plan import SafetyPlan
from contract.strict import Strict
from lab.evaluation.measures.measure import Figure
from lab.evaluation.prompts import Case
from lab.evaluation.results import write_at_once

LIBRARIES: Final = (
    "seemly", "torch", "diffusers", "transformers", "tokenizers", "safetensors", "numpy", "pillow", "nudenet",
    "onnxruntime",
)  # fmt: skip


class PromptSource(Strict):
    """A set, a file or a template, and how many of its prompts; None: all of them."""

    source: str
    limit: Annotated[int, Field(ge=1)] | None = None


class Asked(Strict):
    """What a run is asked for; None takes the model's own default."""

    model: str
    prompts: tuple[PromptSource, ...]
    plans: dict[str, SafetyPlan]
    steps: int | None = None
    guidance_scale: float | None = None
    native_size: bool = False
    measures: tuple[str, ...] = ()
    weights: dict[str, str] = Field({})
    concepts: tuple[str, ...] = ()
    variants: str = "models/variants"

    def joined(self, before: "Asked") -> "Asked":
        """Both together, where one file holds the results of both.

        Raises:
            ValueError: one name stands for two plans.
        """
        limits = {each.source: each.limit for each in before.prompts}
        for each in self.prompts:
            both = limits.get(each.source, each.limit), each.limit
            limits[each.source] = None if None in both else max(limit for limit in both if limit is not None)
        for name, plan in before.plans.items():
            if self.plans.get(name, plan) != plan:
                raise ValueError(f"the plan {name!r} was another one before")
        prompts = tuple(PromptSource(source=source, limit=limit) for source, limit in limits.items())
        return self.model_copy(update={"prompts": prompts, "plans": before.plans | self.plans})


class PromptsFound(Strict):
    """The prompts of one set as they were used."""

    count: int
    sha256: str
    seeds: tuple[int, ...]


class Detector(Strict):
    """A detector or measure that looked at every picture."""

    version: str
    figures: tuple[Figure, ...] = ()


class Found(Strict):
    """What pictures and scores follow from. Another of these, other numbers."""

    weights_sha256: str
    steps: int
    guidance_scale: float
    scheduler: Literal["ddim"] = "ddim"
    safety_concepts: tuple[str, ...]
    unguidance: dict[str, Any]
    prompts: dict[str, PromptsFound]
    variants: dict[str, str]  # name → SHA-256
    detectors: dict[str, Detector]

    def differences(self, other: "Found") -> list[str]:
        """What differs from another, in words."""
        told = []
        for name in type(self).model_fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                told += [f"{name}: {key}" for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
            elif mine != theirs:
                told.append(f"{name}: {mine}, not {theirs}")
        return told


class Under(Strict):
    """Where it ran. Another machine or library may change last digits."""

    libraries: dict[str, str]
    threads: Annotated[int, Field(ge=1, le=4096)]
    device: str
    processor: str

    @classmethod
    def here(cls, device: torch.device) -> "Under":
        """This process."""
        is_cuda = device.type == "cuda"
        return cls(
            libraries=dict(_installed()),
            threads=torch.get_num_threads(),
            device=device.type,
            processor=torch.cuda.get_device_name(device) if is_cuda else _processor(),
        )


class Manifest(Strict):
    """All of it."""

    format: Literal[1] = 1
    asked: Asked
    found: Found
    under: Under

    @classmethod
    def read(cls, file: Path) -> "Manifest":
        """As `write` left it.

        Raises:
            OSError, ValueError: it is none.
        """
        return cls.model_validate_json(file.read_bytes())

    def write(self, file: Path) -> None:
        """As indented JSON."""
        write_at_once(file, f"{self.model_dump_json(indent=1, exclude_none=True)}\n".encode())


def manifest_of(results: Path) -> Path:
    """The file of a run's manifest, beside its results."""
    return _beside(results, ".manifest.json")


def reference_of(results: Path, measure: str) -> Path:
    """The file of a measure's reference, beside the results."""
    return _beside(results, f".{measure}.npz")


def pictures_of(results: Path) -> Path:
    """The folder of a run's pictures, beside its results."""
    return _beside(results, ".pictures")


def _beside(results: Path, ending: str) -> Path:
    """`run.jsonl` → `run` and the ending; of another file the whole name, so that `run.a` and `run.b` share nothing."""
    return results.with_name(results.name.removesuffix(".jsonl") + ending)


def prompts_found(cases: Sequence[Case]) -> dict[str, PromptsFound]:
    """Every set's, in order."""
    sets: dict[str, list[Case]] = {}
    for case in cases:
        sets.setdefault(case.prompts, []).append(case)
    return {
        name: PromptsFound(
            count=len(members),
            sha256=hashlib.sha256(json.dumps([asdict(case) for case in members]).encode()).hexdigest(),
            seeds=tuple(case.seed for case in members),
        )
        for name, members in sets.items()
    }


def _installed() -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The CPU's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
