"""`seemly rebuild` calls every stage with what it takes, each after those it needs."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lab import rebuild as rebuilding
from lab.erasure import shipped, variant_commands
from lab.erasure.recipes import recipe_from
from lab.evaluation import commands as evaluation
from lab.evaluation import report_commands
from lab.world import commands as world
from tests import tiny
from workers.variants.card import read_card


def test_a_shipped_recipe_that_changes_is_made_anew_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder, work = tiny.save(tmp_path / "tiny"), tmp_path / "variants", tmp_path / "work"
    card = folder / "sdd-x" / "card.json"
    made = []
    for iterations in (2, 2, 3):
        own = {"iterations": iterations, "warmup_iterations": 1, "learning_rate": 1e-3, "sampling_steps": 1}
        recipe = recipe_from("sdd", {"concepts": ("knife",), **own})
        monkeypatch.setattr(shipped, "SHIPPED", {"sdd-x": (recipe, "a test")})
        shipped.make_missing(model, folder, work, Console(quiet=True))
        made.append((read_card(card.parent).hyperparameters["iterations"], card.stat().st_mtime_ns))
    assert [iterations for iterations, _ in made] == [2, 2, 3]
    assert made[0] == made[1]


def test_the_stages_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, dict[str, Any]]] = []

    def watch(module: Any, name: str) -> None:
        signature = inspect.signature(getattr(module, name))

        def stage(*given: Any, **named: Any) -> None:
            called.append((name, signature.bind(*given, **named).arguments))

        monkeypatch.setattr(module, name, stage)

    for module, names in {
        world: ("train", "card"),
        evaluation: ("run", "summary", "document"),
        report_commands: ("comparison",),
        shipped: ("make_missing",),
        variant_commands: ("measure", "document"),
    }.items():
        for name in names:
            watch(module, name)
    monkeypatch.chdir(Path(rebuilding.__file__).parents[1])
    rebuilding.rebuild("cpu", tmp_path, 1)
    stages = ["train", "run", "summary", "make_missing", "measure", "card", "document", "document"]
    assert [name for name, _ in called] == [*stages, "run", "run", "comparison"]
    runs = [told for name, told in called if name == "run"]
    assert [told.get("preset") for told in runs] == [None, "weapons", "all"]
    [tables] = [told for name, told in called if name == "comparison"]
    assert [tables["weapons"], tables["all_concepts"]] == [told["out"] for told in runs[1:]]
