"""`seemly rebuild` calls every stage with what it takes, each after those it needs."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from lab import rebuild as rebuilding
from lab.erasure import shipped, variant_commands
from lab.evaluation import commands as evaluation
from lab.evaluation import report_commands
from lab.world import commands as world


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
