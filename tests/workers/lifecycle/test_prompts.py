"""A prompt that comes near a policy's concept: nothing is made, or what is made is held; all of it on record."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract import keys
from contract.audit import ENTRY, Verdicts
from contract.filter import Action
from contract.job import ComparedPlan, Job
from contract.plan import SafetyPlan
from contract.policy import Assignment, Policy, field_of
from contract.prompt_rules import PromptConcept, PromptRules
from contract.result import Result, Status
from contract.verdict import Verdict
from tests.redis_server import RedisServer
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import RunningWorker, working
from tests.workers.lifecycle.paced_engine import PacedEngine
from workers.engine.picture import PictureSpec
from workers.models import LoadedModel
from workers.safety.detectors.panel import Panel

FOUND, NOT_FOUND = -1.0, 1.0  # thresholds: any cosine is over the first, none over the second


class CountingEngine(PacedEngine):
    """Tells how many pictures it was asked for."""

    asked = 0

    def submit(self, *specs: PictureSpec) -> None:
        self.asked += len(specs)
        super().submit(*specs)


@pytest.fixture
def counting() -> CountingEngine:
    return CountingEngine()


@pytest.fixture
def reader(
    server: RedisServer, tmp_path: Path, client: Client, counting: CountingEngine, tiny_model: LoadedModel
) -> Iterator[RunningWorker]:
    """A worker that can score prompts."""
    with working(server, tmp_path, counting, detectors=Panel(tiny_model.detector)) as running:
        yield running


def policy(name: str, *concepts: PromptConcept) -> Policy:
    return Policy(id=name, version=1, prompt_rules=PromptRules(concepts=concepts))


def concept(threshold: float, action: Any = Action.BLOCK, text: str = "a knife", name: str = "blade") -> PromptConcept:
    return PromptConcept(name=name, text=text, threshold=threshold, action=action)


def put_under(client: Client, enforced: Policy, shadow: Policy | None = None) -> None:
    for each in filter(None, (enforced, shadow)):
        client.redis.hset(keys.POLICIES, field_of(each.ref), each.model_dump_json())
    assignment = Assignment(enforce=enforced.ref, shadow=shadow.ref if shadow else None)
    client.redis.hset(keys.ASSIGNMENTS, "someone", assignment.model_dump_json())


def outcome_of(client: Client, wanted: Job) -> Result:
    client.accept(wanted)
    client.wait_for([wanted.id])
    return client.result(wanted.id)


def on_record(client: Client) -> Verdicts:
    [*_, (_, fields)] = client.redis.xrange(keys.audit_key("someone"))
    entry = ENTRY.validate_json(fields[b"body"])
    assert isinstance(entry, Verdicts)
    return entry


def prompts(worker: RunningWorker) -> dict[str, float]:
    return {verdict: worker.metrics.prompts.labels(verdict)._value.get() for verdict in Verdict}


def test_of_a_blocked_prompt_nothing_is_made_and_why_is_on_record(
    client: Client, reader: RunningWorker, counting: CountingEngine, tiny_model: LoadedModel
) -> None:
    put_under(client, policy("reads", concept(FOUND), concept(NOT_FOUND, name="other", text="a hat")))
    wanted = job("a knife", pictures=2, plan=SafetyPlan())
    client.redis.hset(keys.job_key(wanted.id), "end_user", "mallory")
    result = outcome_of(client, wanted)
    assert (result.status, counting.asked, reader.files()) == (Status.BLOCKED, 0, [])
    assert result.metrics is not None
    assert result.metrics.unet_rows == 0
    for picture in result.images:
        assert (picture.verdict, picture.action, picture.concepts) == (Verdict.BLOCKED, Action.BLOCK, ())
        [reason] = picture.reasons
        assert reason.startswith("prompt: the detector prompt-concepts scored 'blade' at ")
        assert "over its threshold of -1.0000 (margin +" in reason
    entry = on_record(client)
    assert (entry.job, entry.status, entry.images[0].reasons) == (wanted.id, Status.BLOCKED, (reason,))
    assert {(text.field, text.concept) for text in entry.texts} == {("prompt", "a knife"), ("prompt", "a hat")}
    [info] = (info for info in Panel(tiny_model.detector).infos if info.name == "prompt-concepts")
    assert {(text.detector_version, text.detector_sha256) for text in entry.texts} == {(info.version, info.sha256)}
    assert client.redis.get(keys.refusals_key("someone", "mallory")) == b"2"
    assert prompts(reader)[Verdict.BLOCKED] == 1
    assert reader.metrics.pictures.labels(Verdict.BLOCKED)._value.get() == 0  # of pictures made


def test_a_compare_whose_prompt_is_blocked_tells_its_plans_all_the_same(client: Client, reader: RunningWorker) -> None:
    put_under(client, policy("reads", concept(FOUND)))
    plans = tuple(
        ComparedPlan(label=label, requested=label, plan=SafetyPlan.from_short_form(label))
        for label in ("none", "filter")
    )
    wanted = job("a knife", pictures=2, plan=plans[0].plan, requested="none", compared=plans)
    result = outcome_of(client, wanted)
    assert (result.status, result.safety) == (Status.BLOCKED, None)
    assert [(entry.index, entry.label, entry.unet_rows, entry.distance) for entry in result.comparison] == [
        (0, "none", 0, None),
        (1, "filter", 0, None),
    ]
    assert [safety.requested for safety in on_record(client).safety] == ["none", "filter"]


def test_what_is_made_of_a_prompt_under_review_is_held_and_what_is_annotated_passes(
    client: Client, reader: RunningWorker
) -> None:
    put_under(client, policy("holds", concept(FOUND, Action.REVIEW)))
    [picture] = outcome_of(client, job()).images
    assert (picture.verdict, picture.action, picture.url, picture.kept) == (Verdict.REVIEW, Action.REVIEW, None, True)
    assert (reader.files(), prompts(reader)[Verdict.REVIEW]) == ([], 1)
    [picture] = outcome_of(client, job("a weapon")).images
    assert picture.verdict is Verdict.BLOCKED
    assert [reason.partition(":")[0] for reason in picture.reasons] == ["violence", "prompt"]
    put_under(client, policy("tells", concept(FOUND, Action.ANNOTATE)))
    [picture] = outcome_of(client, job()).images
    assert (picture.verdict, len(picture.reasons), len(reader.files())) == (Verdict.PASSED, 1, 1)
    put_under(client, policy("passes", concept(NOT_FOUND)))
    result = outcome_of(client, job())
    assert (result.status, result.images[0].reasons) == (Status.SUCCEEDED, ())
    assert [text.concept for text in result.texts] == ["a knife"]


def test_a_policy_that_is_tightened_while_a_job_runs_holds_for_its_prompt(
    client: Client, reader: RunningWorker
) -> None:
    before = policy("before", concept(NOT_FOUND))
    for number, (tighter, verdict) in enumerate(
        ((concept(FOUND), Verdict.BLOCKED), (concept(FOUND, text="something else"), Verdict.ERROR))
    ):
        put_under(client, before)
        wanted = job(steps=100)
        client.accept(wanted)
        while client.redis.hget(keys.job_key(wanted.id), "status") != b"running":
            time.sleep(0.01)
        put_under(client, policy(f"after-{number}", tighter))
        client.wait_for([wanted.id])
        [picture] = client.result(wanted.id).images
        assert picture.verdict is verdict
    assert picture.error is not None
    assert "the prompt was not scored for what the policy now demands: blade" in picture.error.message
    assert reader.files() == []


def test_what_a_watched_policy_would_make_of_a_prompt_is_on_record(client: Client, reader: RunningWorker) -> None:
    put_under(client, policy("enforced"), policy("watched", concept(FOUND)))
    assert outcome_of(client, job()).status is Status.SUCCEEDED
    [shadow] = on_record(client).shadow
    assert (shadow.verdict, shadow.action) == (Verdict.BLOCKED, Action.BLOCK)
    assert "prompt-concepts scored 'blade'" in shadow.reasons[0]
    assert prompts(reader)[Verdict.BLOCKED] == 0


def test_a_prompt_that_cannot_be_scored_is_withheld(
    server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_under(client, policy("demands", concept(NOT_FOUND)))
    wanted = job(pictures=2)
    with working(server, tmp_path, engine := CountingEngine()):
        result = outcome_of(client, wanted)
    assert result.error is not None
    assert (result.status, result.error.code, engine.asked) == (Status.FAILED, "detector_error", 0)
    assert "nothing that scores prompts" in result.error.message
    assert [picture.verdict for picture in result.images] == [Verdict.ERROR] * 2
    panel = Panel(tiny_model.detector, limit_s=0.5)
    reads = tiny_model.detector.prompts
    assert reads is not None

    def nan(texts: Any) -> Any:
        return embed(texts) * float("nan")

    def slow(texts: Any) -> Any:
        time.sleep(1)
        return embed(texts)

    def raising(texts: Any) -> Any:
        raise OSError("its file is gone")

    embed = reads._texts.embed_windows
    with working(server, tmp_path, engine, detectors=panel) as worker:
        for fault, told in ((nan, "not finite"), (slow, "no answer within"), (raising, "its file is gone")):
            monkeypatch.setattr(reads._texts, "embed_windows", fault)
            result = outcome_of(client, job())
            assert result.error is not None
            assert (result.status, result.error.code) == (Status.FAILED, "detector_error")
            assert told in result.error.message
            ends = time.monotonic() + 30
            while not panel.troubles:  # the worker takes nothing more
                assert time.monotonic() < ends
                time.sleep(0.01)
            monkeypatch.setattr(reads._texts, "embed_windows", embed)
            assert outcome_of(client, job()).status is Status.SUCCEEDED  # once it is proved again
        assert (engine.asked, len(worker.files()), prompts(worker)[Verdict.ERROR]) == (3, 3, 3)
