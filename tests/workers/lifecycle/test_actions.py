"""The filter's actions that a worker carries out: blur, and regenerate."""

import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from contract.filter import Action, ConceptRule, Filter, FilterConcept
from contract.plan import SafetyPlan
from contract.result import Result, Status
from contract.verdict import Verdict
from tests.seemly.processes import eventually
from tests.workers.lifecycle.client import PATIENCE_S, Client, job
from tests.workers.lifecycle.conftest import RunningWorker
from tests.workers.lifecycle.paced_engine import INFO, PacedEngine, score
from workers.blur import blurred
from workers.engine.picture import Outcome, PictureSpec
from workers.results import judge, made_again

BLUR = SafetyPlan(output=Filter(action=Action.BLUR))


def regenerate(times: int | None = None) -> SafetyPlan:
    return SafetyPlan(output=Filter(action=Action.REGENERATE, regenerations=times))


def finished(client: Client, prompt: str, status: Status, **changes: object) -> Result:
    wanted = client.accept(job(prompt, **changes))
    assert client.wait_for([wanted]) == {wanted: status}
    client.assert_ended_once([wanted])
    return client.result(wanted)


def seeds(first: int, count: int) -> list[int]:
    [spec] = PictureSpec.all_of(job(seeds=(first,)))
    made = []
    for _ in range(count):
        made.append(spec.seed)
        spec = spec.again
    return made


def wait_until_made_again(client: Client, job_id: str) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not any(data.get("steps", 0) > 4 for _, data in client.events(job_id)):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_a_picture_is_delivered_blurred_and_says_so(client: Client, worker: RunningWorker, engine: PacedEngine) -> None:
    result = finished(client, "a weapon|a harbour", Status.SUCCEEDED, pictures=2, plan=BLUR, seeds=(5, 6))
    smeared, plain = result.images
    assert (smeared.verdict, smeared.action, smeared.blurred) == (Verdict.PASSED, Action.BLUR, True)
    assert "scored 'weapon' at 0.3100" in smeared.reasons[0]
    assert "blurred past recognition; the scores are of the picture before" in smeared.reasons[1]
    assert smeared.concepts[0].flagged
    assert (plain.verdict, plain.action, plain.blurred, plain.reasons) == (Verdict.PASSED, None, False, ())
    original = np.random.default_rng(5).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    stored = {path.stem: path.read_bytes() for path in worker.files()}
    assert set(stored) == {"1-0", "1-1"}
    with Image.open(BytesIO(stored["1-0"])) as file:
        assert (np.asarray(file) == blurred(original)).all()


@pytest.mark.parametrize(("action", "verdict"), [(Action.BLOCK, Verdict.BLOCKED), (Action.REVIEW, Verdict.REVIEW)])
def test_a_stricter_action_of_another_concept_withholds_what_would_be_blurred(
    client: Client, worker: RunningWorker, action: Action, verdict: Verdict
) -> None:
    own = FilterConcept(name="weapon", text="a weapon", threshold=0.2, action=action)
    plan = SafetyPlan(output=Filter(action=Action.BLUR, concepts=(own,)))
    [picture] = finished(client, "a weapon", Status.BLOCKED, plan=plan).images
    assert (picture.verdict, picture.action, picture.blurred) == (verdict, action, False)
    assert worker.files() == []


def test_the_first_picture_that_passes_is_delivered(client: Client, worker: RunningWorker) -> None:
    result = finished(client, "a weapon cured-2", Status.SUCCEEDED, plan=regenerate(3), seeds=(7,))
    [picture] = result.images
    first, second, third = seeds(7, 3)
    assert (picture.verdict, picture.seed, picture.reasons) == (Verdict.PASSED, third, ())
    assert [one.seed for one in picture.discarded] == [first, second] == [7, second]
    for one in picture.discarded:
        assert [score.name for score in one.concepts] == ["weapon"]
        assert "scored 'weapon' at 0.3100" in one.reasons[0]
    assert result.metrics is not None
    assert result.metrics.unet_rows == 3 * 2 * 4
    counted = worker.metrics.registry.get_sample_value
    assert eventually(lambda: counted("seemly_worker_regenerations_total") == 2)  # counted after the commit
    [file] = worker.files()
    with Image.open(file) as stored:
        expected = np.random.default_rng(third).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        assert (np.asarray(stored) == expected).all()


def test_when_none_passes_the_last_is_blocked(client: Client, worker: RunningWorker) -> None:
    [picture] = finished(client, "a weapon", Status.BLOCKED, plan=regenerate(), seeds=(7,)).images
    assert (picture.verdict, picture.action) == (Verdict.BLOCKED, Action.REGENERATE)
    assert [*(one.seed for one in picture.discarded), picture.seed] == seeds(7, 3)
    assert picture.reasons[-1] == "made again 2 times with other seeds, each time with a concept found"
    assert worker.files() == []


@pytest.mark.parametrize(("times", "status"), [(1, Status.BLOCKED), (2, Status.SUCCEEDED)])
def test_a_concepts_own_number_holds_and_every_attempt_is_on_record(
    client: Client, worker: RunningWorker, times: int, status: Status
) -> None:
    own = ConceptRule(name="weapon", action=Action.REGENERATE, regenerations=times)
    plan = SafetyPlan(output=Filter(action=Action.REGENERATE, regenerations=5, rules=(own,)))
    wanted = job("a weapon cured-2", seeds=(7,), plan=plan)
    client.accept(wanted)
    assert client.wait_for([wanted.id]) == {wanted.id: status}
    [entry] = client.on_record()[wanted.id]
    [picture] = entry.images
    assert [*(one.seed for one in picture.discarded), picture.seed] == seeds(7, times + 1)
    for one in picture.discarded:
        assert [score.name for score in one.concepts] == ["weapon"]
        assert "scored 'weapon' at 0.3100" in one.reasons[0]
        assert not [reason for reason in one.reasons if "made again" in reason]
    assert ("made again 1 times" in picture.reasons[-1]) if status is Status.BLOCKED else picture.reasons == ()
    assert entry.plans[0].output == plan.output


def test_of_several_concepts_found_the_smallest_number_holds() -> None:
    numbers = {"weapon": 4, "gore": 1}
    rules = tuple(ConceptRule(name=name, regenerations=number) for name, number in numbers.items())
    wanted = job(plan=SafetyPlan(output=Filter(action=Action.REGENERATE, rules=rules)))
    [spec] = PictureSpec.all_of(wanted)
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    for gore, again in ((0.1, True), (0.3, False)):
        scores = (score("weapon", 0.3), score("gore", gore))
        judged = judge(Outcome(spec.again, pixels=pixels, scores=scores), wanted, INFO)
        assert (made_again(judged, wanted) is not None) is again


def test_only_the_flagged_pictures_of_a_job_are_made_again(client: Client, worker: RunningWorker) -> None:
    prompt = "a weapon cured-1|a harbour|a weapon"
    images = finished(client, prompt, Status.PARTIAL, pictures=3, plan=regenerate(1)).images
    assert [picture.verdict for picture in images] == [Verdict.PASSED, Verdict.PASSED, Verdict.BLOCKED]
    assert [len(picture.discarded) for picture in images] == [1, 0, 1]
    assert len(worker.files()) == 2


def test_a_block_among_the_concepts_is_not_made_again(client: Client, worker: RunningWorker) -> None:
    own = FilterConcept(name="weapon", text="a weapon", threshold=0.2, action=Action.BLOCK)
    plan = SafetyPlan(output=Filter(action=Action.REGENERATE, concepts=(own,)))
    [picture] = finished(client, "a weapon", Status.BLOCKED, plan=plan).images
    assert (picture.action, picture.discarded) == (Action.BLOCK, ())


def test_progress_never_falls_and_counts_every_attempt(client: Client, worker: RunningWorker) -> None:
    wanted = client.accept(job("a weapon cured-2|a harbour", pictures=2, steps=30, plan=regenerate()))
    client.wait_for([wanted])
    told = [data for kind, data in client.events(wanted) if kind == "progress"]
    for quantity in ("step", "steps"):
        assert [data[quantity] for data in told] == sorted(data[quantity] for data in told)
    assert {data["steps"] for data in told} == {60, 90, 120}
    assert all(data["step"] <= data["steps"] for data in told)


def test_a_job_can_be_canceled_while_a_picture_is_made_again(client: Client, worker: RunningWorker) -> None:
    wanted = client.accept(job("a weapon again-endless", plan=regenerate()))
    wait_until_made_again(client, wanted)
    client.cancel(wanted)
    assert client.wait_for([wanted]) == {wanted: Status.CANCELED}
    assert client.result(wanted).images == ()
    assert worker.files() == []


def test_the_deadline_holds_while_a_picture_is_made_again(client: Client, worker: RunningWorker) -> None:
    wanted = client.accept(job("a weapon again-endless", plan=regenerate(), deadline_s=0.6))
    began = time.monotonic()
    assert client.wait_for([wanted]) == {wanted: Status.EXPIRED}
    assert time.monotonic() - began >= 0.3
    [picture] = client.result(wanted).images
    assert picture.verdict is Verdict.ERROR
    assert len(picture.discarded) == 1
    assert worker.files() == []


def test_a_regeneration_that_fails_withholds_the_picture_as_an_error(client: Client, worker: RunningWorker) -> None:
    [picture] = finished(client, "a weapon again-row-fails", Status.FAILED, plan=regenerate()).images
    assert picture.error is not None
    assert picture.error.code == "row_failed"
    assert [one.seed for one in picture.discarded] == [0]


def test_the_seed_of_a_regeneration_depends_on_the_picture_alone() -> None:
    alone, beside = job(seeds=(41,)), job("another", seeds=(40, 41))
    [one], [_, other] = PictureSpec.all_of(alone), PictureSpec.all_of(beside)
    assert one.again.seed == other.again.seed != one.seed
    assert (one.again.regeneration, one.again.again.regeneration) == (1, 2)
    made = {seed for first in range(200) for seed in seeds(first, 6)}
    assert len(made) == 200 * 6
    assert all(0 <= seed < 2**53 for seed in made)
