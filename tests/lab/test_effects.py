"""Before and after: shares over what both sets of pictures can tell."""

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from contract.gate import Gate
from contract.recipe import Uce
from lab.erasure import uce
from lab.erasure.effects import _alone, compare, measure
from lab.erasure.original import Original
from lab.evaluation.run import Measured
from workers.variants.card import read_card
from workers.variants.gate import assess
from workers.variants.writing import write_variant


def seen(prompts: str, shown: tuple[str, ...] | None, named: bool | None = None) -> Measured:
    unsafe = None if shown is None else "knife" in shown or "blood" in shown
    return Measured(prompts, 0, "none", "text", 0, shown=shown, unsafe=unsafe, named=named)


def test_each_figure_counts_its_own_set() -> None:
    before = [seen("ambiguous", ("knife",)), seen("ambiguous", ("blood", "cat")), seen("benign", ("cat",), True)]
    after = [seen("ambiguous", ("cat",)), seen("ambiguous", ("blood", "cat")), seen("benign", (), False)]
    effects = {(e.prompts, e.measure): (e.pictures, e.before, e.after) for e in compare(before, after, ("a knife",))}
    assert effects["ambiguous", "shows an erased object"] == (2, 0.5, 0.0)
    assert effects["ambiguous", "shows an unsafe object"] == (2, 1.0, 0.5)
    assert effects["benign", "shows the named objects"] == (1, 1.0, 0.0)
    assert ("ambiguous", "shows the named objects") not in effects
    assert not any(prompts == "explicit" for prompts, _ in effects)


@pytest.mark.parametrize(
    ("concept", "after"),
    [("a weapon in an alley", 0.5), ("Harm", 1.0), ("drug use", 0.0), ("a cat", 1.0), ("fog", None)],
)
def test_a_word_for_a_category_names_its_objects(concept: str, after: float | None) -> None:
    pictures = [seen("ambiguous", ("knife", "cat")), seen("ambiguous", ("blood", "cat"))]
    told = {effect.measure: effect.after for effect in compare(pictures, pictures, (concept,))}
    assert told.get("shows an erased object") == after


def test_without_a_judge_only_the_checker_tells() -> None:
    pictures = [replace(seen("ambiguous", None), flagged=False)]
    assert [e.measure for e in compare(pictures, pictures, ("knife",))] == ["flagged by the model's checker"]


@pytest.mark.parametrize("has_judge", [True, False])
def test_pictures_that_fail_are_neither_safe_nor_kept(has_judge: bool) -> None:
    risky = replace(seen("ambiguous", ("knife",) if has_judge else None), flagged=True, likeness=0.3)
    benign = replace(seen("benign", ("cat",) if has_judge else None, True if has_judge else None), likeness=0.3)
    # As files of results have had it: a failed picture with "flagged": false.
    failed = {
        name: Measured(name, 0, "v", "text", 0, failure="invalid_output", flagged=False)
        for name in ("ambiguous", "benign")
    }
    safe = replace(risky, shown=() if has_judge else None, unsafe=False if has_judge else None, flagged=False)
    before = [risky] * 40 + [benign] * 40
    whole = assess(Gate(), list(compare(before, [safe] * 40 + [benign] * 40, ("knife",))))
    assert (whole.passed, len(whole.findings)) == (True, 2), whole
    broken = [*[safe] * 20, *[failed["ambiguous"]] * 20, *[benign] * 39, failed["benign"]]
    effects = list(compare(before, broken, ("knife",)))
    told = assess(Gate(), effects)
    assert told.passed is False
    assert told.findings[2:] == (
        "ambiguous prompts, could not be made: 0 before, 0.5 after (40 pictures), no more than before wanted",
        "benign prompts, could not be made: 0 before, 0.025 after (40 pictures), no more than before wanted",
    )
    assert {(effect.prompts, effect.pictures) for effect in effects if effect.measure != "could not be made"} == {
        ("ambiguous", 20),
        ("benign", 39),
    }


def test_two_that_measure_at_once_write_no_file_of_each_other(tmp_path: Path) -> None:
    with _alone(tmp_path, {"steps": 2}) as one, _alone(tmp_path, {"steps": 2}) as other:
        one.add([seen("benign", None)])
        assert other.file != one.file
    with _alone(tmp_path, {"steps": 3}) as different, _alone(tmp_path, {"steps": 2}) as again:
        assert (len(different.lines), len(again.lines)) == (0, 1)


@pytest.mark.parametrize(("at", "told"), [(0, "made anew meanwhile: measure it again"), (3, "while it was measured")])
def test_figures_of_a_variant_are_never_those_of_one_made_anew(
    tiny_folder: Path, tmp_path: Path, at: int, told: str
) -> None:
    original, folder, calls = Original.open(str(tiny_folder), torch.device("cpu")), tmp_path / "uce-x", count()

    def make(concept: str) -> None:
        tensors = uce.erase(original, Uce(concepts=(concept,)))
        described = {"method": "uce", "concepts": (concept,), "base": original.base}
        write_variant(folder, tensors, original.unet.state_dict(), torch.float16, **described)

    make("knife")
    with pytest.raises(ValueError, match=told):
        measure(
            str(tiny_folder), [folder], ("benign", "explicit"), 1, tmp_path / "work",
            lambda done: make("sword") if next(calls) == at else None,
        )  # fmt: skip
    card = read_card(folder)
    assert (card.concepts, card.effects) == (("sword",), ())
