"""A worker looks at the policy of now, before it runs a job and before it releases what it made."""

import time
from pathlib import Path

import pytest

from contract import keys
from contract.audit import ENTRY, Verdicts
from contract.detail import ScoreDetail
from contract.filter import Action, ConceptRule, Filter, FilterConcept
from contract.job import Job, PolicyRef
from contract.plan import SafetyPlan
from contract.policy import Assignment, Policy, field_of
from contract.rejudging import ShadowVerdict
from contract.result import Result, Status
from contract.verdict import Verdict
from tests.redis_server import RedisServer
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import RunningWorker, working
from tests.workers.lifecycle.paced_engine import PacedEngine


def put_under(client: Client, policy: Policy, tenant: str = "someone") -> None:
    client.redis.hset(keys.POLICIES, field_of(policy.ref), policy.model_dump_json())
    client.redis.hset(keys.ASSIGNMENTS, tenant, Assignment(enforce=policy.ref).model_dump_json())


def own_concepts(count: int) -> tuple[FilterConcept, ...]:
    return tuple(FilterConcept(name=f"concept {number}", text="a knife", threshold=0.2) for number in range(count))


def outcome_of(client: Client, wanted: Job) -> Result:
    client.accept(wanted)
    client.wait_for([wanted.id])
    return client.result(wanted.id)


def test_a_job_under_the_policy_of_now_is_not_run(client: Client, worker: RunningWorker) -> None:
    put_under(client, Policy(id="now", version=1, forbidden=("none",), floor=SafetyPlan.from_short_form("filter")))
    for wanted, told in (
        (job(requested="none", plan=SafetyPlan()), "does not allow: none"),
        (job(plan=SafetyPlan()), "safety.output: is under the floor of the policy 'now'"),
    ):
        error = outcome_of(client, wanted).error
        assert error is not None
        assert error.code == "forbidden_by_policy"
        assert told in error.message
    assert outcome_of(client, job()).status is Status.SUCCEEDED
    assert len(worker.files()) == 1


def test_a_job_whose_policy_is_not_on_record_is_not_run(client: Client, worker: RunningWorker) -> None:
    missing = Assignment(enforce=PolicyRef(id="gone", version=1))
    client.redis.hset(keys.ASSIGNMENTS, "*", missing.model_dump_json())
    error = outcome_of(client, job()).error
    assert error is not None
    assert (error.code, error.message) == ("policy_unknown", "the policy gone@1 is not on record")
    client.redis.hset(keys.ASSIGNMENTS, "*", "no JSON")
    error = outcome_of(client, job()).error
    assert error is not None
    assert error.code == "policy_unknown"


def test_the_deployments_floor_holds_whatever_the_policy(server: RedisServer, tmp_path: Path, client: Client) -> None:
    with working(server, tmp_path, PacedEngine(), floor=SafetyPlan.from_short_form("filter")):
        error = outcome_of(client, job(plan=SafetyPlan())).error
        assert error is not None
        assert error.code == "forbidden_by_policy"


def test_a_policy_that_is_tightened_while_a_job_runs_holds_for_its_pictures(
    client: Client, worker: RunningWorker
) -> None:
    wanted = job("a harbour|a weapon", pictures=2, steps=100, plan=SafetyPlan(output=Filter(action=Action.ANNOTATE)))
    client.accept(wanted)
    while client.redis.hget(keys.job_key(wanted.id), "status") != b"running":
        time.sleep(0.01)
    put_under(client, Policy(id="tighter", version=1, floor=SafetyPlan(output=Filter(action=Action.REVIEW))))
    client.wait_for([wanted.id])
    result = client.result(wanted.id)
    assert result.status is Status.PARTIAL
    assert [picture.verdict for picture in result.images] == [Verdict.PASSED, Verdict.REVIEW]
    assert len(worker.files()) == 1


def test_a_rules_threshold_is_what_a_picture_is_held_against(client: Client, worker: RunningWorker) -> None:
    rule = ConceptRule(name="weapon", threshold=0.01, action=Action.REVIEW)
    [picture] = outcome_of(client, job(plan=SafetyPlan(output=Filter(rules=(rule,))))).images
    assert (picture.verdict, picture.action) == (Verdict.REVIEW, Action.REVIEW)
    [score] = (score for score in picture.concepts if score.name == "weapon")
    assert (score.threshold, score.own_threshold, score.flagged) == (0.01, 0.2, True)
    unknown = Filter(rules=(ConceptRule(name="kittens", action=Action.BLOCK),))
    error = outcome_of(client, job(plan=SafetyPlan(output=unknown))).error
    assert error is not None
    assert error.code == "detector_error"


def test_what_a_watched_policy_would_have_decided_is_on_record_and_changes_nothing(
    client: Client, worker: RunningWorker
) -> None:
    watched = Policy(
        id="watched", version=2, floor=SafetyPlan(output=Filter(rules=(ConceptRule(name="weapon", threshold=0.05),)))
    )
    strict = Policy(id="strict", version=1, forbidden=("filter",))
    default = PolicyRef(id="default", version=1)
    crowded = Policy(id="crowded", version=1, floor=SafetyPlan(output=Filter(concepts=own_concepts(64))))
    for policy in (watched, strict, crowded):
        client.redis.hset(keys.POLICIES, field_of(policy.ref), policy.model_dump_json())
    asked = SafetyPlan(output=Filter(concepts=(FilterConcept(name="one-more", text="a hat", threshold=0.9),)))
    for tenant, shadow, requested in (("one", watched, "filter"), ("two", strict, "filter"), ("three", crowded, asked)):
        assignment = Assignment(enforce=default, shadow=shadow.ref)
        client.redis.hset(keys.ASSIGNMENTS, tenant, assignment.model_dump_json())
        assert outcome_of(client, job(tenant=tenant, requested=requested)).status is Status.SUCCEEDED
    assert len(worker.files()) == 3
    [found], [refused], [full] = (shadow_on_record(client, tenant) for tenant in ("one", "two", "three"))
    assert (found.policy, found.verdict, found.action) == (watched.ref, Verdict.BLOCKED, Action.BLOCK)
    assert "over its threshold of 0.0500" in found.reasons[0]
    assert (refused.policy, refused.verdict) == (strict.ref, None)
    assert "does not allow: filter" in refused.reasons[0]
    assert full.verdict is None
    assert full.reasons[0].startswith(
        "safety.output.concepts: together with those of the policy they are 65 of at most 64"
    )


@pytest.mark.parametrize(("scores", "is_told"), [(ScoreDetail.FULL, True), (ScoreDetail.COARSE, False)])
def test_a_webhook_is_told_scores_as_the_policy_of_now_says(
    client: Client, worker: RunningWorker, scores: ScoreDetail, is_told: bool
) -> None:
    put_under(client, Policy(id="telling", version=1, scores=scores))
    wanted = job("a weapon")
    client.redis.hset(keys.job_key(wanted.id), "webhook_url", "https://app.example/")
    assert "scored 'weapon' at 0.3100" in outcome_of(client, wanted).images[0].reasons[0]
    delivery = client.redis.hgetall(keys.delivery_key(f"msg_{wanted.id}"))
    assert (b"0.31" in delivery[b"images"]) is is_told
    assert (b"was found by test" in delivery[b"images"]) is not is_told


def shadow_on_record(client: Client, tenant: str) -> tuple[ShadowVerdict, ...]:
    [(_, fields)] = client.redis.xrange(keys.audit_key(tenant))
    entry = ENTRY.validate_json(fields[b"body"])
    assert isinstance(entry, Verdicts)
    return entry.shadow
