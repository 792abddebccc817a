"""OpenAI's own client, unmodified, against the whole stack with the demo model."""

import asyncio
import base64
import io
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image, ImageChops

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
    assert httpx.get(str(picture.url)).content == base64.b64decode(same.b64_json or "")


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
    assert [event.b64_json for event in events] == [picture.b64_json for picture in whole]
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
