"""Before and after: shares over what both sets of pictures can tell."""

from lab.erasure.effects import compare
from lab.evaluation.run import Measured


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


def test_without_a_judge_only_the_checker_tells() -> None:
    pictures = [seen("ambiguous", None)]
    assert [e.measure for e in compare(pictures, pictures, ("knife",))] == ["flagged by the model's checker"]
