"""A store that cannot be used says why and what to do, and tells no secret."""

import asyncio
import re
from pathlib import Path

import pytest

from contract.store import StoreUnusable, open_store, try_reading, try_writing
from tests.stores import BUCKET, Place, S3Server, place, s3

__all__ = ["place", "s3"]


def both_ways(url: str) -> list[str]:
    """What a worker and what a gateway say of it."""
    said = []
    with pytest.raises(StoreUnusable) as told:
        try_writing(open_store(url))
    said.append(str(told.value))
    with pytest.raises(StoreUnusable) as told:
        asyncio.run(try_reading(open_store(url)))
    return [*said, str(told.value)]


def test_a_store_in_order_is_tried_and_left_as_it_was(place: Place) -> None:
    before = place.found()
    try_writing(open_store(place.url))
    asyncio.run(try_reading(open_store(place.url)))
    assert place.found() == before


@pytest.mark.parametrize(
    ("bucket", "changes", "advice"),
    [
        ("nowhere", {}, "there is no such bucket; make it, or name another"),
        (BUCKET, {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}, "does not accept the credentials; set .*AWS_SECRET"),
        (BUCKET, {"AWS_ACCESS_KEY_ID": "AKIANOBODY"}, "does not accept the credentials; set .*AWS_ACCESS_KEY_ID"),
        (BUCKET, {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "does not answer .*; check that it runs"),
        (BUCKET, {"AWS_ALLOW_HTTP": "false"}, "AWS_ALLOW_HTTP=true"),
    ],
)
def test_a_bucket_that_cannot_be_used_says_what_to_do(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, bucket: str, changes: dict[str, str], advice: str
) -> None:
    environment = s3.environment() | changes
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for said in both_ways(f"s3://{bucket}"):
        assert re.search(advice, said), said
        assert environment["AWS_SECRET_ACCESS_KEY"] not in said


def test_credentials_that_only_read_are_enough_for_the_gateway(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment(*s3.reader).items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{BUCKET}")
    asyncio.run(try_reading(store))
    with pytest.raises(StoreUnusable, match="may not do what is needed: list, read, write and delete"):
        try_writing(store)


def test_a_folder_that_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    store = open_store(folder.as_uri())
    folder.rmdir()
    with pytest.raises(StoreUnusable, match="the folder is gone; make it, or mount what holds it"):
        try_writing(store)
    with pytest.raises(StoreUnusable, match="this user cannot read and write the folder"):
        try_writing(open_store("file:///sys"))


@pytest.mark.parametrize("url", ["ftp://here", "memory:///", "https://pictures.example", "pictures"])
def test_only_stores_that_both_ends_can_share_are_taken(url: str) -> None:
    with pytest.raises(ValueError, match="a store is named by file://, s3://, gs://, az://"):
        open_store(url)
