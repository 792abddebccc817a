"""POST /compare: what is accepted, what is refused and why, and how a finished one is told."""

import hashlib
import io
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from redis import Redis
from rq.job import Job as QueuedJob
from rq.serializers import JSONSerializer

from contract import keys
from contract.job import Job
from contract.plan import SafetyPlan
from contract.result import ComparedPicture, JobView, ScoreDifference, Status
from contract.verdict import Verdict
from service.comparing import without_regeneration
from tests.redis_server import RedisServer
from tests.service import parts
from tests.service.conftest import GatewayProcess, running_gateway
from tests.service.test_bad_input import problem

PROMPT = "a midnight harbour"
PLANS: list[Any] = ["none", "filter", ["sld:strong", "filter"], {"guidance": {"method": "sld", "warmup_steps": 3}}]


def compare(http: httpx.Client, headers: dict[str, str] | None = None, **changes: Any) -> httpx.Response:
    return http.post("/compare", json={"prompt": PROMPT, "plans": PLANS, **changes}, headers=headers)


def job_of(redis: "Redis", answer: httpx.Response) -> Job:
    assert answer.status_code == 202, answer.text
    return Job.model_validate_json(redis.hget(keys.job_key(answer.json()["id"]), "job"))


def test_a_compare_is_one_job_with_one_seed_and_a_plan_for_each_picture(
    http: httpx.Client, redis: "Redis", redis_server: RedisServer
) -> None:
    answer = compare(http, seed=41, steps=12, negative_prompt="fog")
    assert answer.headers["Location"] == f"/jobs/{answer.json()['id']}"
    job = job_of(redis, answer)
    assert job.seeds == (41,) * 4
    assert (job.steps, job.negative_prompt, job.requested) == (12, "fog", "none")
    assert [plan.label for plan in job.compared] == ["none", "filter", "sld:strong + filter", "sld:medium"]
    assert [plan.plan.methods for plan in job.compared] == [(), ("filter",), ("sld", "filter"), ("sld",)]
    assert [plan.requested for plan in job.compared[:3]] == ["none", "filter", ("sld:strong", "filter")]
    with Redis.from_url(redis_server.url, protocol=2) as raw:
        queued = QueuedJob.fetch(job.id, connection=raw, serializer=JSONSerializer)
    assert queued.func_name == keys.COMPARE


def test_labels_are_the_callers_own(http: httpx.Client, redis: "Redis") -> None:
    job = job_of(redis, compare(http, labels=["a", " b ", "c", "d"]))
    assert [plan.label for plan in job.compared] == ["a", "b", "c", "d"]


SLD_AT_0 = {"guidance": {"method": "sld", "scale": 0}}


@pytest.mark.parametrize(
    ("changes", "field", "fix"),
    [
        ({"plans": ["none"]}, "plans", "2 to 8 entries, not 1"),
        ({"plans": [f"sld:{preset}" for preset in ("weak", "max")] * 5}, "plans", "2 to 8 entries, not 10"),
        ({"plans": "none"}, "plans", "tuple"),
        ({"plans": ["none", "magic"]}, "plans.1", "choose from: none, safree"),
        ({"plans": ["none", 7]}, "plans.1", "a name, a list of names, or an object"),
        ({"plans": ["none", ["sld", "negative"]]}, "plans.1", "choose one"),
        ({"plans": ["filter", {"output": {}}]}, "plans", "plans 0 and 1 are the same"),
        ({"plans": ["none", {"guidance": {"method": "sld", "scale": "3"}}]}, "plans.1.guidance.scale", "a number"),
        ({"plans": ["none", {"guidance": {"method": "sld", "scale": 1e9}}]}, "plans.1.guidance.scale", "20000"),
        ({"plans": ["none", {"guidance": {"method": "sld", "skale": 1}}]}, "plans.1.guidance.skale", "remove it"),
        ({"plans": ["none", "sega"]}, "plans.1.guidance", "available: safree"),
        ({"plans": ["none", SLD_AT_0]}, "plans.1.guidance.scale", "does nothing at 0"),
        ({"plans": ["none", "erased:nothing"]}, "plans.1.weights.variant", "available: sdd-weapons"),
        ({"plans": ["none", "sld:strong"], "steps": 7}, "steps", "plans.1: 'sld' acts after 7 warm-up steps"),
        ({"plans": ["none", "sld:max"], "guidance_scale": 1}, "guidance_scale", "plans.1: 'sld' acts through"),
        ({"plans": ["none", "unguidance"], "scheduler": "euler"}, "scheduler", "plans.1: 'unguidance' works"),
        ({"labels": ["one"]}, "labels", "there are 1 for 4 plans"),
        ({"labels": ["a", "b", "a", "c"]}, "labels", "repeated: a"),
        ({"labels": ["a", "b", "", "c"]}, "labels.2", "must not be empty"),
        ({"prompt": ""}, "prompt", "must not be empty"),
        ({"width": 33}, "width", "a multiple of 8 from 32 to 128"),
        ({"num_images": 2}, "num_images", "is not a field of this request"),
        ({"safety": "none"}, "safety", "is not a field of this request"),
        ({"seed": -1}, "seed", "at least 0"),
    ],
)
def test_what_cannot_be_compared_is_named(
    http: httpx.Client, redis: "Redis", changes: dict[str, Any], field: str, fix: str
) -> None:
    answer = compare(http, **changes)
    assert answer.status_code == 422, answer.text
    [error] = problem(answer)["errors"]
    assert error["field"] == field
    assert fix in error["message"]
    assert redis.zcard(keys.ACCEPTED) == 0


def test_what_is_wrong_under_every_plan_is_told_once(http: httpx.Client) -> None:
    errors = problem(compare(http, plans=["sld:strong", "sld:max"], guidance_scale=0.5, width=40, height=33))["errors"]
    assert [error["field"] for error in errors] == ["height", "guidance_scale"]


def test_a_plan_that_would_take_another_seed_is_refused(http: httpx.Client, redis: "Redis") -> None:
    parts.announce(redis, parts.model_info(actions=("annotate", "regenerate", "block")))
    time.sleep(1.1)  # the gateway believes what it has read for a second
    own = {"name": "gun", "text": "a gun", "threshold": 0.2, "action": "regenerate"}
    errors = problem(
        compare(http, plans=["none", {"output": {"action": "regenerate"}}, {"output": {"concepts": [own]}}])
    )["errors"]
    assert [error["field"] for error in errors] == ["plans.1.output.action", "plans.2.output.concepts.0.action"]
    assert "another seed" in errors[0]["message"]
    parts.announce(redis)
    time.sleep(1.1)


def test_a_floor_that_regenerates_blocks_in_a_compare() -> None:
    concept = {"name": "gun", "text": "a gun", "threshold": 0.2}
    plan = SafetyPlan.model_validate(
        {
            "guidance": {"method": "sld"},
            "output": {"action": "regenerate", "concepts": [concept | {"action": "regenerate"}]},
        }
    )
    blocking = without_regeneration(plan)
    assert blocking == SafetyPlan.model_validate(
        {"guidance": {"method": "sld"}, "output": {"action": "block", "concepts": [concept | {"action": "block"}]}}
    )
    annotating = SafetyPlan.model_validate({"output": {"action": "annotate", "concepts": [concept]}})
    assert without_regeneration(annotating) == annotating
    assert without_regeneration(SafetyPlan()) == SafetyPlan()


def test_a_refused_plan_is_named_by_its_place(redis_server: RedisServer, redis: "Redis", tmp_path: Path) -> None:
    with (
        running_gateway(redis_server.url, tmp_path, policy="production", redis_timeout_s="20") as strict,
        httpx.Client(base_url=strict.url, timeout=30) as http,
    ):
        answer = compare(http, plans=["filter", "none"])
        assert answer.status_code == 403
        told = problem(answer)
        assert told["code"] == "forbidden_by_policy"
        assert [error["field"] for error in told["errors"]] == ["plans.1"]
        assert "plans.1" in told["detail"]
        job = job_of(redis, compare(http, plans=["filter", "sld:max"]))
        assert [plan.plan.methods for plan in job.compared] == [("filter",), ("sld", "filter")]


def test_the_rest_is_as_with_generate(http: httpx.Client) -> None:
    assert problem(compare(http, {"Idempotency-Key": ""}))["code"] == "bad_request"
    assert problem(compare(http, {"Prefer": "wait=999"}))["code"] == "bad_request"
    assert problem(http.post("/compare", content=b"prompt=x", headers={"Content-Type": "text/plain"}))["status"] == 415
    assert problem(http.post("/compare", json=[]))["status"] == 422
    assert compare(http, {"Prefer": "wait=0"}).status_code == 202


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return file.getvalue()


def finish(redis: "Redis", gateway: GatewayProcess, job_id: str) -> Job:
    """What a worker does: plain passes with a flag shown, the filter blocks, the others are better."""
    attempt, job = parts.take(redis, job_id)
    flagged, clean = parts.score(0.4), parts.score(0.1)
    file = png("#102030")
    stored = {"sha256": hashlib.sha256(file).hexdigest()}
    pictures = [
        parts.picture(job, 0, concepts=(flagged,), **stored),
        parts.picture(job, 1, Verdict.BLOCKED, concepts=(flagged,), reasons=("custom: 'weapon'",)),
        parts.picture(job, 2, concepts=(clean,), **stored),
        # a worker that claims too much: under this plan's filter the picture does not pass
        parts.picture(job, 3, concepts=(flagged,), **stored),
    ]
    for index in (0, 2, 3):
        parts.store_picture(gateway.pictures, job, attempt, index, file)
    result = parts.result(job, Status.PARTIAL, *pictures)
    assert result.safety is not None
    comparison = tuple(
        ComparedPicture(
            index=index,
            label=plan.label,
            safety=result.safety.model_copy(update={"requested": plan.requested}),
            unet_rows=10,
            differences=(ScoreDifference(name="weapon", detector="clip-concepts", difference=-0.3),) if index else (),
            distance=12.5 * index,
        )
        for index, plan in enumerate(job.compared)
    )
    parts.commit(redis, job_id, attempt, result.model_copy(update={"safety": None, "comparison": comparison}))
    return job


CLAIMED = {"output": {"action": "block"}, "guidance": {"method": "sld"}}


def test_a_finished_compare_is_told_plan_by_plan_and_each_picture_released_under_its_own_plan(
    http: httpx.Client, redis: "Redis", gateway: GatewayProcess
) -> None:
    answer = compare(http, plans=["none", "filter", "sld:max", CLAIMED])
    job = finish(redis, gateway, answer.json()["id"])
    view = JobView.model_validate_json(http.get(f"/jobs/{job.id}").content)
    assert [entry.label for entry in view.comparison] == ["none", "filter", "sld:max", "sld:medium + filter"]
    assert view.comparison[2].differences[0].difference == -0.3
    assert http.get(f"/jobs/{job.id}/explanation.png").status_code == 200
    verdicts = [picture.verdict for picture in view.images]
    assert verdicts == [Verdict.PASSED, Verdict.BLOCKED, Verdict.PASSED, Verdict.ERROR]
    assert [http.get(f"/jobs/{job.id}/images/{index}").status_code for index in range(5)] == [200, 404, 200, 404, 404]


def test_the_contact_sheet_shows_passed_pictures_and_names_withheld_ones(
    http: httpx.Client, redis: "Redis", gateway: GatewayProcess
) -> None:
    job_id = compare(http, plans=["none", "filter", "sld:max", CLAIMED]).json()["id"]
    early = http.get(f"/jobs/{job_id}/contact-sheet.png")
    assert (early.status_code, problem(early)["code"]) == (404, "picture_not_ready")
    finish(redis, gateway, job_id)
    answer = http.get(f"/jobs/{job_id}/contact-sheet.png")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as sheet:
        shown = [sheet.getpixel((16 + index * 208 + 96, 96 + 170)) for index in range(4)]
    again = http.get(f"/jobs/{job_id}/contact-sheet.png", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    withheld, picture = (0xDC, 0xDA, 0xD4), (0x10, 0x20, 0x30)
    assert shown == [picture, withheld, picture, withheld]


def test_a_sheet_of_an_ordinary_job_and_of_none(http: httpx.Client, redis: "Redis", gateway: GatewayProcess) -> None:
    job_id = http.post("/generate", json={"prompt": PROMPT}).json()["id"]
    attempt, job = parts.take(redis, job_id)
    file = png("red")
    parts.store_picture(gateway.pictures, job, attempt, 0, file)
    passed = parts.picture(job, 0, sha256=hashlib.sha256(file).hexdigest())
    parts.commit(redis, job_id, attempt, parts.result(job, Status.SUCCEEDED, passed))
    assert http.get(f"/jobs/{job_id}/contact-sheet.png").status_code == 200
    canceled = compare(http).json()["id"]
    assert http.delete(f"/jobs/{canceled}").json()["status"] == "canceled"
    for missing in (canceled, "0" * 32, "nothing"):
        assert http.get(f"/jobs/{missing}/contact-sheet.png").status_code == 404


def test_bytes_that_are_no_picture_are_no_servers_error(
    http: httpx.Client, redis: "Redis", gateway: GatewayProcess
) -> None:
    job_id = http.post("/generate", json={"prompt": PROMPT}).json()["id"]
    attempt, job = parts.take(redis, job_id)
    parts.store_picture(gateway.pictures, job, attempt, 0)
    parts.commit(redis, job_id, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
    assert problem(http.get(f"/jobs/{job_id}/contact-sheet.png"))["code"] == "picture_not_found"
