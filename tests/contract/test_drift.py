"""The index against its formula, and what it says of scores that stay, wander and change detectors."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from contract.drift import LEAST, SHIFTED_FROM, STEP, counted, drift_of, read, stability
from contract.filter import Filter, FilterConcept
from contract.plan import SafetyPlan
from tests.service.parts import picture, score, some_job

RNG = np.random.default_rng(4)
CONCEPT = ("clip-checker", "1", "knife")


def counts(scores: Sequence[float]) -> Counter[int]:
    return Counter(math.floor(value / STEP) for value in scores)


def test_the_index_is_that_of_its_formula() -> None:
    reference = Counter(dict.fromkeys(range(10), 100))
    recent = Counter({place: 100 + 20 * (place % 2) for place in range(10)})
    shares = [((100.5 + 20 * (i % 2)) / 1106, 100.5 / 1006) for i in range(10)] + [(0.5 / 1106, 0.5 / 1006)] * 2
    assert stability(recent, reference) == pytest.approx(sum((p - q) * math.log(p / q) for p, q in shares), abs=1e-4)
    assert stability(reference, reference) == 0


@pytest.mark.parametrize(("moved", "shifted"), [(0.0, False), (0.005, False), (0.06, True), (-0.06, True)])
def test_scores_that_move_are_told_from_those_that_do_not(moved: float, shifted: bool) -> None:
    reference, recent = RNG.normal(0.15, 0.05, 20_000), RNG.normal(0.15 + moved, 0.05, 2000)
    found = drift_of(CONCEPT, counts(recent), counts(reference))
    assert found.psi is not None
    assert (found.shifted, found.psi > SHIFTED_FROM) == (shifted, shifted)
    assert found.recent_mean == pytest.approx(0.15 + moved, abs=0.01)


def test_few_pictures_prove_nothing() -> None:
    found = drift_of(CONCEPT, Counter({40: LEAST - 1}), Counter({3: 100_000}))
    assert (found.psi, found.shifted) == (None, False)
    assert drift_of(CONCEPT, Counter({40: LEAST}), Counter({3: LEAST})).shifted


def test_what_is_counted_is_read_again() -> None:
    job = some_job()
    made = [picture(job, 0, concepts=(score(value), score(-0.05, name="hat"))) for value in (0.1, 0.1, 0.35)]
    fields = counted(job, made)
    assert read({field: str(count) for field, count in fields.items()}) == {
        ("clip-concepts", "1", "weapon"): counts([0.1, 0.1, 0.35]),
        ("clip-concepts", "1", "hat"): Counter({-3: 3}),
    }
    own = SafetyPlan(output=Filter(concepts=(FilterConcept(name="hat", text="a hat", threshold=0.2),)))
    asked = counted(job.model_copy(update={"requested": own}), made)  # a request's own concepts are nobody else's
    assert asked == {field: count for field, count in fields.items() if "|weapon|" in field}
    assert read({"nonsense": "1", "a|b|c|x": "2", "a|b|c|3": "x"}) == {}
