"""Replay over a thousand pictures on record: in time, and the same as judging each of them anew."""

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random

from contract.at_rest import PromptAtRest, PromptForm
from contract.audit import JudgedText, words_of
from contract.chain import APPEND
from contract.filter import Action, ConceptRule, Filter, FilterConcept
from contract.job import Job
from contract.plan import SafetyPlan
from contract.rejudging import rejudged
from contract.result import Picture, Status
from contract.verdict import Verdict, decide
from service.api_keys import Scope
from service.jobs import released
from tests.service import parts
from tests.service.conftest import KeyedGateway
from tests.service.test_bad_input import problem
from workers.evidence import verdicts_of

PICTURES, OF_A_JOB, CONCEPTS = 1000, 2, 12
TIGHTER = Filter(
    rules=(
        ConceptRule(name="concept 0", threshold=0.12, action=Action.REVIEW),
        ConceptRule(name="concept 1", threshold=0.15),
    )
)


def judged(number: int, random: Random) -> tuple[Job, list[Picture]]:
    """A job and its pictures, as a worker leaves them: mostly passed."""
    job = parts.some_job(id=f"{number:032x}", tenant="replayed", seeds=(1, 2), requested="filter")
    pictures = []
    for index in range(OF_A_JOB):
        values = [random.uniform(0, 0.203) for _ in range(CONCEPTS)]
        scores = tuple(parts.score(v, name=f"concept {i}", detector="checker") for i, v in enumerate(values))
        decision = decide(scores, job.plan.output)
        changes = {"concepts": scores, "action": decision.action, "reasons": decision.reasons}
        pictures.append(parts.picture(job, index, decision.verdict, **changes))
    return job, pictures


def test_a_tightened_policy_is_replayed_in_time_and_as_each_picture_would_be_judged(keyed: KeyedGateway) -> None:
    random = Random("replay")  # noqa: S311
    on_record = [judged(number, random) for number in range(PICTURES // OF_A_JOB)]
    append = keyed.redis.register_script(APPEND)
    for job, pictures in on_record:
        entry = verdicts_of(job, 1, parts.result(job, Status.PARTIAL, *pictures))
        assert entry is not None
        append(args=["replayed", *words_of(entry)])
    expected: Counter[str] = Counter()
    for job, pictures in on_record:
        for picture in pictures:
            now = rejudged(picture, job.plan.output, TIGHTER)
            expected[now.verdict.value] += 1
            if picture.verdict is Verdict.PASSED:  # as a caller reads it under this policy
                assert released(picture, job, SafetyPlan(output=TIGHTER)).verdict is now.verdict
    floor = {"output": TIGHTER.model_dump(mode="json", exclude={"regenerations"})}
    policy = {"id": "tightened", "version": 1, "floor": floor}
    asked = {"tenant": "replayed", "policy": policy}
    with keyed.http("operators", Scope.ADMIN) as admin:
        began = time.perf_counter()
        answer = admin.post("/policies/tightened/replay", json=asked)
        took_s = time.perf_counter() - began
        assert answer.status_code == 200, answer.text
        replay = answer.json()
        print(f"replayed {replay['pictures']} pictures in {took_s:.2f} s: {replay['before']} -> {replay['after']}")  # noqa: T201
        assert (replay["pictures"], replay["jobs"], replay["is_complete"]) == (PICTURES, PICTURES // OF_A_JOB, True)
        assert replay["after"] == expected
        assert replay["after"]["passed"] < replay["before"]["passed"]
        assert took_s <= 2
        by_concept = {one["name"]: (one["before"], one["after"]) for one in replay["concepts"]}
        assert by_concept["concept 0"][1] > by_concept["concept 0"][0]
        assert by_concept["concept 3"][0] == by_concept["concept 3"][1]
        for change in replay["changes"]:
            assert 1 <= len(change["examples"]) <= 5
            assert change["examples"][0].keys() == {"job", "index"}
        part = admin.post("/policies/tightened/replay", json={**asked, "jobs": 10}).json()
        assert (part["pictures"], part["is_complete"]) == (20, False)


def test_a_replay_tells_what_it_cannot_judge(keyed: KeyedGateway) -> None:
    job, pictures = judged(1, Random(1))  # noqa: S311
    own = SafetyPlan(output=Filter(concepts=(FilterConcept(name="hat", text="a hat", threshold=0.9),)))
    job = job.model_copy(update={"tenant": "asks-more", "requested": own})
    words = PromptAtRest(form=PromptForm.KEPT, prompt="a quiet street", negative_prompt="a gun")
    sld = SafetyPlan.from_short_form(("sld", "filter"))
    kept = job.model_copy(update={"tenant": "keeps-words", "plan": sld, "prompt_at_rest": words})
    text = JudgedText(
        tenant="asks-more",
        at=datetime.now(UTC),
        field="texts.0",
        text=PromptAtRest(),
        verdict=Verdict.PASSED,
        lists=(),
        policy=job.policy,
    )
    for _ in range(2):
        keyed.redis.register_script(APPEND)(args=[text.tenant, *words_of(text)])
    for one in (job, kept):
        entry = verdicts_of(one, 1, parts.result(one, Status.SUCCEEDED, *pictures))
        assert entry is not None
        keyed.redis.register_script(APPEND)(args=[one.tenant, *words_of(entry)])
    knife = FilterConcept(name="knife", text="a knife", threshold=0.2)
    policy = {
        "id": "inline",
        "version": 1,
        "floor": {"output": {"concepts": [knife.model_dump(mode="json")]}},
        "prompt_rules": {"lists": [{"name": "words", "words": ["knife"]}]},
    }
    with keyed.http("operators", Scope.ADMIN) as admin:

        def replay(**fields: object) -> dict[str, object]:
            answer = admin.post("/policies/inline/replay", json={"tenant": "asks-more", "policy": policy, **fields})
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        found = replay()
        assert (found["after"], found["prompts_unknown"]) == ({"error": 2}, 1)
        of_one = replay(jobs=1)  # the texts beside it are no jobs
        assert (of_one["jobs"], of_one["pictures"], of_one["is_complete"]) == (1, 2, True)
        later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
        assert replay(since=later)["pictures"] == 0
        long_ago = "0590-12-11T20:36:30.08Z"  # before streams know a time
        assert replay(since=long_ago, until=later)["pictures"] == found["pictures"]
        assert replay(until=long_ago)["pictures"] == 0
        forbids = {**policy, "floor": {}, "forbidden": ["filter"]}
        assert replay(policy=forbids)["after"] == {"refused": 2}
        many = [{**knife.model_dump(mode="json"), "name": f"knife {number}"} for number in range(64)]
        crowded = {**policy, "floor": {"output": {"concepts": many}}}
        assert replay(policy=crowded)["after"] == {"refused": 2}
        listed = {**policy, "floor": {}, "prompt_rules": {"lists": [{"name": "far", "words": ["gun"]}]}}
        assert replay(policy=listed, tenant="keeps-words")["after"] == {
            "refused": 2
        }  # the negative prompt, which SLD pushes towards
        both = admin.post("/policies/inline/replay", json={"tenant": "asks-more", "policy": policy, "version": 1})
        assert problem(both)["errors"][0]["field"] == "policy"
        other = admin.post("/policies/another/replay", json={"tenant": "asks-more", "policy": policy})
        assert problem(other)["errors"][0]["field"] == "policy.id"
        unknown = admin.post("/policies/none-such/replay", json={"tenant": "asks-more"})
        assert problem(unknown)["code"] == "policy_not_found"
