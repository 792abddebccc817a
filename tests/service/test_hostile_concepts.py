"""Concepts as the gateway takes them: none is dropped, none cut."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from redis import Redis

from contract import keys
from contract.filter import Action
from contract.job import Job
from service.models import count_tokens
from tests import tiny
from tests.service import parts
from tests.service.test_bad_input import PROMPT, problem

MARK = "<|endoftext|>"


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """What the gateway has read of this module's model is out of date for the next."""
    yield
    time.sleep(1.1)


@pytest.fixture(autouse=True)
def able(redis: "Redis", http: httpx.Client) -> None:
    """A model with all methods and actions, known to the gateway."""
    methods = ("safree", "negative", "sld", "sega", "unguidance", "filter")
    info = parts.model_info(methods=methods, actions=tuple(Action))
    parts.announce(redis, info)
    while http.get("/models").json()["models"] != [info.model_dump(mode="json")]:
        time.sleep(0.1)


def plan(method: str, texts: list[str]) -> dict[str, Any]:
    match method:
        case "safree":
            return {"prompt": {"concepts": texts}}
        case "sega":
            return {"guidance": {"method": "sega", "concepts": [{"text": text} for text in texts]}}
        case "unguidance":
            return {"trajectory": {"concepts": texts}}
        case "filter":
            concepts = [{"name": f"c{i}", "text": text, "threshold": 0.2} for i, text in enumerate(texts)]
            return {"output": {"concepts": concepts}}
        case _:
            return {"guidance": {"method": method, "concepts": texts}}


def post(http: httpx.Client, safety: Any, **more: Any) -> httpx.Response:
    return http.post("/generate", json={"prompt": PROMPT, "safety": safety} | more)


@pytest.mark.parametrize("method", ["safree", "sega", "unguidance", "filter"])
def test_sixty_four_concepts_reach_the_job_in_order(http: httpx.Client, redis: "Redis", method: str) -> None:
    wanted = plan(method, [f"gore {number}" for number in range(64)])
    answer = post(http, wanted)
    assert answer.status_code == 202, answer.text
    job = Job.model_validate_json(redis.hget(keys.job_key(answer.json()["id"]), "job"))
    [place] = wanted
    told = [getattr(concept, "text", concept) for concept in getattr(job.plan, place).concepts]
    assert told == [f"gore {number}" for number in range(64)]


@pytest.mark.parametrize("method", ["negative", "sld"])
def test_concepts_that_do_not_fit_into_their_one_text_are_refused_with_the_words(
    http: httpx.Client, redis: "Redis", method: str
) -> None:
    """The shortest concepts there are: 64 of them never fit into 77 tokens."""
    before = parts.redis_keys(redis)
    texts = [chr(ord("a") + number // 26) + chr(ord("a") + number % 26) for number in range(64)]
    answer = post(http, plan(method, texts))
    [error] = problem(answer)["errors"]
    assert error["field"] == "safety.guidance.concepts"
    assert "of at most 77; shorten it. These words would be lost" in error["message"]
    assert " be, " in error["message"]
    assert parts.redis_keys(redis) == before
    beside = post(http, plan("negative", ["gore"]), negative_prompt="abc " * 22)
    assert [error["field"] for error in problem(beside)["errors"]] == ["negative_prompt"]


@pytest.mark.parametrize("method", ["safree", "negative", "sld", "sega", "unguidance", "filter"])
@pytest.mark.parametrize("texts", [["gore", f"blood {MARK}"], [f"{MARK}gore"]])
def test_a_mark_that_ends_a_text_is_refused(http: httpx.Client, redis: "Redis", method: str, texts: list[str]) -> None:
    before = parts.redis_keys(redis)
    answer = post(http, plan(method, texts))
    assert answer.status_code == 422, answer.text
    assert MARK in problem(answer)["errors"][0]["message"]
    assert "remove it" in problem(answer)["errors"][0]["message"]
    assert parts.redis_keys(redis) == before


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_mark_in_a_prompt_is_refused(http: httpx.Client, field: str) -> None:
    answer = post(http, "none", **{field: f"a harbour {MARK} at night"})
    assert [error["field"] for error in problem(answer)["errors"]] == [field]


def test_a_mark_is_found_by_clips_own_tokenizer() -> None:
    tokenizer = tiny.tokenizer().backend_tokenizer
    assert count_tokens(tokenizer, f"a {MARK} cat", 77).stray_mark == MARK
    assert count_tokens(tokenizer, "<|startoftext|>", 77).stray_mark == "<|startoftext|>"
    assert count_tokens(tokenizer, "a cat |endoftext|", 77).stray_mark == ""
    assert count_tokens(tokenizer, f"{'x' * 100} {MARK}", 77).stray_mark == MARK


@pytest.mark.parametrize(
    ("safety", "field", "fix"),
    [
        (plan("safree", ["gore", " GORE "]), "safety.prompt.concepts", "concepts 0 and 1 are the same text"),
        (plan("sld", ["gore", "Gore"]), "safety.guidance.concepts", "name each once"),
        (plan("sega", ["gore", "Gore"]), "safety.guidance.concepts", "name each once"),
        (plan("unguidance", ["a  gun", "a gun"]), "safety.trajectory.concepts", "name each once"),
        (plan("safree", []), "safety.prompt.concepts", "must not be empty"),
        (plan("negative", ["gore", " "]), "safety.guidance.concepts.1", "must not be empty"),
        ({"trajectory": {"concepts": ["gore"], "top_k": 2}}, "safety.trajectory.top_k", "more than the 1 concepts"),
        ({"output": {"action": "blur", "regenerations": 2}}, "safety.output.regenerations", "'regenerate'"),
        ({"output": {"action": "regenerate", "regenerations": 6}}, "safety.output.regenerations", "at most 5"),
        ("filter:smear", "safety", "annotate, blur, regenerate, review, block"),
    ],
)
def test_what_would_do_nothing_is_named_with_its_fix(
    http: httpx.Client, redis: "Redis", safety: Any, field: str, fix: str
) -> None:
    before = parts.redis_keys(redis)
    answer = post(http, safety)
    assert answer.status_code == 422
    assert fix in {error["field"]: error["message"] for error in problem(answer)["errors"]}[field]
    assert parts.redis_keys(redis) == before


def test_the_filters_actions_are_asked_for_in_either_form(http: httpx.Client, redis: "Redis") -> None:
    for safety, times in (("filter:blur", 0), ({"output": {"action": "regenerate", "regenerations": 4}}, 4)):
        job_id = post(http, safety).json()["id"]
        job = Job.model_validate_json(redis.hget(keys.job_key(job_id), "job"))
        assert job.plan.output is not None
        assert job.plan.output.most_regenerations == times
    presets = {method["name"]: method["presets"] for method in http.get("/safety/methods").json()["methods"]}
    assert presets["filter"] == [action.value for action in Action]
