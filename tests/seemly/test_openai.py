"""OpenAI's own client, unmodified, against the whole stack with the demo model."""

import asyncio
import base64
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image, ImageChops
from redis import Redis
from typer.testing import CliRunner

from contract import keys
from seemly.cli import app
from seemly.commands.terminal import DONE, FAILED, WITHHELD
from seemly.embedded import EmbeddedStack
from seemly.settings import Settings

pytestmark = pytest.mark.timeout(300)

MODEL = Path(__file__).parents[2] / "models" / "demo"
HARMLESS: dict[str, Any] = {"prompt": "a cat at midnight", "extra_body": {"seed": 3, "num_inference_steps": 4}}
UNFILTERED: dict[str, Any] = {**HARMLESS, "extra_body": {**HARMLESS["extra_body"], "safety": "none"}}
INDECENT: dict[str, Any] = {"prompt": "a pirate scene", "extra_body": {"seed": 9}}  # withheld; from seed 10 it passes


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SEEMLY_") or name in ("PORT", "REDIS_URL")]:
            patch.delenv(name)
        patch.setenv("SEEMLY_TORCH_THREADS", "1")
        settings = {"model": str(MODEL), "model_name": "demo", "data": tmp_path_factory.mktemp("stack"), "port": 0}
        with EmbeddedStack(Settings.model_validate(settings)) as running:
            yield running


@pytest.fixture(scope="module")
def client(stack: EmbeddedStack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none-needed-here", max_retries=0) as talking:
        yield talking


def opened(content: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content or "")))


def assert_alike(one: str | None, other: str | None) -> None:
    """The same picture, made in batches of different sizes."""
    difference = ImageChops.difference(opened(one), opened(other))
    assert max(high for _, high in difference.getextrema()) <= 1


def test_a_picture_comes_as_base64(client: openai.OpenAI) -> None:
    answer = client.images.generate(model="demo", **HARMLESS)
    (picture,) = answer.data or ()
    assert opened(picture.b64_json).size == (64, 64)
    assert picture.url is None
    assert (answer.size, answer.output_format, answer.background) == ("64x64", "png", "opaque")


def test_a_picture_comes_as_an_address_of_the_same_bytes(client: openai.OpenAI, stack: EmbeddedStack) -> None:
    (picture,) = client.images.generate(response_format="url", **HARMLESS).data or ()
    assert picture.b64_json is None
    assert str(picture.url).startswith(f"{stack.url}/jobs/")
    (same,) = client.images.generate(response_format="b64_json", **HARMLESS).data or ()
    assert (
        opened(base64.b64encode(httpx.get(str(picture.url)).content).decode()).tobytes()
        == opened(same.b64_json).tobytes()
    )


def test_four_pictures_of_a_size_and_format_of_the_callers_choice(client: openai.OpenAI) -> None:
    answer = client.images.generate(n=4, size="128x64", output_format="webp", user="someone", **UNFILTERED)
    pictures = [opened(picture.b64_json) for picture in answer.data or ()]
    assert [(picture.format, picture.size) for picture in pictures] == [("WEBP", (128, 64))] * 4
    assert all(one.tobytes() != other.tobytes() for one, other in pairwise(pictures))
    assert answer.size == "128x64"


def test_a_blocked_picture_is_a_bad_request_that_says_why(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(**INDECENT)
    assert (refused.value.code, refused.value.type) == ("moderation_blocked", "image_generation_user_error")
    assert "over its threshold" in refused.value.message
    assert refused.value.request_id


def test_of_some_pictures_those_that_passed_come_and_the_others_are_told(client: openai.OpenAI) -> None:
    answer: Any = client.images.generate(n=2, **INDECENT)
    assert [picture.index for picture in answer.data] == [1]
    assert opened(answer.data[0].b64_json).size == (64, 64)
    assert [(one["index"], one["verdict"]) for one in answer.withheld] == [(0, "blocked")]
    assert answer.withheld[0]["reasons"]


def test_without_the_filter_the_same_picture_comes(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt=INDECENT["prompt"], extra_body={"seed": 9, "safety": "none"})
    assert len(answer.data or ()) == 1


def test_a_stream_brings_every_picture_that_passed(client: openai.OpenAI) -> None:
    whole = client.images.generate(n=2, **UNFILTERED).data or ()
    with client.images.generate(n=2, stream=True, partial_images=0, **UNFILTERED) as stream:
        events = list(stream)
    assert [event.type for event in events] == ["image_generation.completed"] * 2
    for event, picture in zip(events, whole, strict=True):
        assert_alike(event.b64_json, picture.b64_json)
    assert {event.size for event in events} == {"64x64"}


def test_a_stream_of_a_blocked_picture_ends_in_the_same_error(client: openai.OpenAI) -> None:
    with (
        client.images.generate(stream=True, **INDECENT) as stream,
        pytest.raises(openai.APIError, match="over its threshold") as refused,
    ):
        list(stream)
    assert (refused.value.code, refused.value.type) == ("moderation_blocked", "image_generation_user_error")


def test_the_same_from_asyncio(stack: EmbeddedStack, client: openai.OpenAI) -> None:
    (expected,) = client.images.generate(**HARMLESS).data or ()

    async def converse() -> None:
        async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as talking:
            answer, streamed, refused = await asyncio.gather(
                talking.images.generate(**HARMLESS),
                talking.images.generate(stream=True, **HARMLESS),
                talking.images.generate(**INDECENT),
                return_exceptions=True,
            )
            assert not isinstance(answer, BaseException)
            assert not isinstance(streamed, BaseException)
            for content in [picture.b64_json for picture in answer.data or ()] + [
                event.b64_json async for event in streamed
            ]:
                assert_alike(content, expected.b64_json)
            assert isinstance(refused, openai.BadRequestError)
            assert refused.code == "moderation_blocked"

    asyncio.run(converse())


def png_of(client: openai.OpenAI, **asked: Any) -> bytes:
    (picture,) = client.images.generate(**asked).data or ()
    return base64.b64decode(picture.b64_json or "")


@pytest.fixture(scope="module")
def indecent(client: openai.OpenAI) -> bytes:
    """A picture that the filter would have withheld."""
    return png_of(client, prompt=INDECENT["prompt"], extra_body={"seed": 9, "safety": "none"})


@pytest.fixture(scope="module")
def decent(client: openai.OpenAI) -> bytes:
    return png_of(client, **HARMLESS)


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def part(content: bytes) -> Any:
    return {"type": "image_url", "image_url": {"url": data_url(content)}}


def test_texts_are_moderated_one_by_one(client: openai.OpenAI) -> None:
    answer = client.moderations.create(input=["a cat at midnight", "a quiet street"], model="omni-moderation-latest")
    assert [result.flagged for result in answer.results] == [False, False]
    assert not any(dict(answer.results[0].categories).values())
    assert answer.id.startswith("modr-")
    assert len(client.moderations.create(input="a cat").results) == 1


def test_texts_are_held_against_the_policys_concepts(client: openai.OpenAI, stack: EmbeddedStack) -> None:
    concepts = [{"name": "violence", "text": "a weapon", "threshold": 0.4}]
    policy = {"id": "reads", "version": 1, "prompt_rules": {"concepts": concepts}}
    assert httpx.post(f"{stack.url}/policies", json=policy).status_code == 201
    tenant = f"{stack.url}/tenants/local/policy"
    assert httpx.put(tenant, json={"enforce": {"id": "reads", "version": 1}}).status_code == 200
    try:
        results = client.moderations.create(input=["a cat at midnight", "a cat, " * 30 + "a kn\u200bife"]).results
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.generate(prompt="a knife")
    finally:
        httpx.delete(tenant)
    assert [result.flagged for result in results] == [False, True]
    assert (results[1].categories.violence, results[1].category_applied_input_types.violence) == (True, ["text"])
    assert results[1].category_scores.violence > 0.4 > results[0].category_scores.violence
    assert refused.value.code == "moderation_blocked"
    assert "the detector prompt-concepts scored 'violence' at 0.51" in refused.value.message


def test_a_picture_is_moderated_with_the_scores_it_was_made_with(
    client: openai.OpenAI, stack: EmbeddedStack, indecent: bytes, decent: bytes
) -> None:
    (result,) = client.moderations.create(
        input=[{"type": "text", "text": "what is this?"}, part(indecent)], model="demo"
    ).results
    assert result.flagged
    assert result.categories.violence  # what this world calls a weapon
    assert result.category_scores.violence > 0.2
    assert result.category_applied_input_types.violence == ["image"]
    found: Any = result
    flagged = {score["name"] for score in found.concepts if score["flagged"]}
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(**INDECENT)
    assert flagged == {name for name in flagged if f"scored '{name}'" in refused.value.message}
    assert found.reasons[0] in refused.value.message
    (result,) = client.moderations.create(input=[part(decent)]).results
    assert not result.flagged


def test_what_is_no_picture_is_a_bad_request_and_nothing_is_fetched(client: openai.OpenAI) -> None:
    for url, told in [
        ("https://example.com/a.png", "not fetched"),
        ("data:image/png;base64,AAAA", "no PNG, JPEG or WebP"),
    ]:
        with pytest.raises(openai.BadRequestError, match=told):
            client.moderations.create(input=[{"type": "image_url", "image_url": {"url": url}}])


def test_moderate_takes_files_and_json_and_keeps_nothing(stack: EmbeddedStack, indecent: bytes, decent: bytes) -> None:
    with httpx.Client(base_url=stack.url, timeout=60) as http:
        files = [("image", ("a.png", decent, "image/png")), ("image", ("b.png", indecent, "image/png"))]
        form = http.post("/moderate", files=files, data={"text": ["a cat"], "model": "demo"})
        images = [data_url(decent), base64.b64encode(indecent).decode()]
        same = http.post("/moderate", json={"images": images, "texts": ["a cat"]})
        assert form.status_code == same.status_code == 200, (form.text, same.text)
        told = form.json()
        assert told["flagged"]
        assert [one["verdict"] for one in told["images"]] == ["passed", "blocked"]
        assert [one["verdict"] for one in told["texts"]] == ["passed"]
        assert [one["sha256"] for one in told["images"]] == [
            hashlib.sha256(content).hexdigest() for content in (decent, indecent)
        ]
        scores = [[[s["score"] for s in one["concepts"]] for one in answer.json()["images"]] for answer in (form, same)]
        for one, other in zip(*scores, strict=True):
            assert one == pytest.approx(other, abs=1e-4)
        job = http.get(f"/jobs/{told['id']}").json()
        assert (job["status"], [one["url"] for one in job["images"]]) == ("partial", [None, None])
        assert http.get(f"/jobs/{told['id']}/images/0").status_code == 404
        annotated = http.post(
            "/moderate", json={"images": [base64.b64encode(indecent).decode()], "output": {"action": "annotate"}}
        )
        assert (annotated.json()["flagged"], annotated.json()["images"][0]["action"]) == (False, "annotate")
    with Redis.from_url(stack.redis_url) as redis:
        assert redis.keys(f"{keys.PREFIX}upload:*") == []


def test_the_command_line_moderates_files(
    stack: EmbeddedStack, indecent: bytes, decent: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name, content in (("good.png", decent), ("bad.png", indecent), ("text.png", b"no picture")):
        (tmp_path / name).write_bytes(content)

    def run(*names: str) -> Any:
        files = [str(tmp_path / name) for name in names]
        return CliRunner().invoke(app, ["moderate", *files, "--url", stack.url, "--json"])

    both = run("good.png", "bad.png")
    assert both.exit_code == WITHHELD
    assert [one["verdict"] for one in json.loads(both.stdout)["files"]] == ["passed", "blocked"]
    assert run("good.png").exit_code == DONE
    assert "images.0" in (failed := run("text.png")).stderr
    assert failed.exit_code == FAILED
    assert "there is no file" in run("nowhere.png").stderr


def test_a_picture_says_where_it_came_from_and_nothing_of_its_prompt(stack: EmbeddedStack, decent: bytes) -> None:
    assert HARMLESS["prompt"].encode() not in decent
    assert b"trainedAlgorithmicMedia" in decent
    with httpx.Client(base_url=stack.url, timeout=60) as http:
        told = http.post("/v1/provenance/verify", files=[("image", ("a.png", decent, "image/png"))]).json()
        [found] = told["images"]
        assert (found["delivered"], found["manifest"], found["manifest_read"]) == (True, None, True)
        job = http.get(f"/jobs/{found['packet']['job']}").json()
        assert job["images"][found["packet"]["picture"]]["sha256"] == found["sha256"]
        assert job["safety"]["weights_sha256"] == found["packet"]["weights_sha256"]
        assert found["packet"]["policy"] == "default@1"
        images = [data_url(decent + b"appended"), data_url(b"no picture")]
        assert http.post("/v1/provenance/verify", json={"images": images}).status_code == 400
        [changed] = http.post("/v1/provenance/verify", json={"images": images[:1]}).json()["images"]
        assert (changed["delivered"], changed["packet"]) == (False, found["packet"])


def finished(http: httpx.Client, path: str, body: dict[str, Any] | None = None) -> Any:
    """What becomes of the job that a request makes."""
    job = http.post(path, json=body) if body is not None else http.post(path)
    assert job.status_code in (200, 202), job.text
    while (told := http.get(f"/jobs/{job.json()['id']}").json())["status"] in ("queued", "running"):
        time.sleep(0.02)
    return told


def test_a_job_made_again_states_the_difference_in_pixels(stack: EmbeddedStack, decent: bytes) -> None:
    with httpx.Client(base_url=stack.url, timeout=60) as http:
        for output_format in ("png", "jpeg"):
            before = finished(
                http,
                "/generate",
                {"prompt": "a pirate scene", "seed": 9, "num_images": 2, "output_format": output_format},
            )
            again = finished(http, f"/jobs/{before['id']}/reproduce")
            told = again["reproduction"]
            assert (told["of"], told["same_weights"]) == (before["id"], True)
            withheld, passed = told["images"]
            assert (withheld["verdict_before"], again["images"][0]["verdict"]) == ("blocked", "blocked")
            assert [withheld[name] for name in ("same_pixels", "max_difference", "different_share")] == [None] * 3
            assert passed["verdict_before"] == again["images"][1]["verdict"] == "passed"
            assert passed["max_difference"] <= (1 if output_format == "png" else 4)
            assert passed["same_pixels"] is (passed["max_difference"] == 0)
            assert [one["seed"] for one in again["images"]] == [one["seed"] for one in before["images"]]
        compared = finished(
            http, "/compare", {"prompt": HARMLESS["prompt"], "seed": 3, "steps": 4, "plans": ["none", "filter"]}
        )
        told = finished(http, f"/jobs/{compared['id']}/reproduce")["reproduction"]
        assert [one["max_difference"] <= 1 for one in told["images"]] == [True, True]
        moderation = http.post("/moderate", json={"images": [data_url(decent)]}).json()["id"]
        assert http.post(f"/jobs/{moderation}/reproduce").json()["code"] == "not_reproducible"
        assert http.post(f"/jobs/{'0' * 32}/reproduce").status_code == 404
