"""The Dockerfile as data: its stages, and the steps of each."""

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

FILE = Path(__file__).parents[2] / "Dockerfile.gpu"


@dataclass(frozen=True)
class Step:
    """One instruction."""

    word: str
    text: str


@dataclass(frozen=True)
class Stage:
    """What lies between two FROM."""

    name: str
    base: str
    steps: list[Step] = field(default_factory=list)


@cache
def stages() -> dict[str, Stage]:
    """Every stage by its name, in order."""
    found: dict[str, Stage] = {}
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.M))
    for line in filter(None, (line.strip() for line in joined.splitlines())):
        word, _, text = line.partition(" ")
        if word == "FROM":
            base, _, name = text.partition(" AS ")
            stage = found[name] = Stage(name, base)
        elif found:
            stage.steps.append(Step(word, text))
    return found
