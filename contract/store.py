"""The store of passed pictures: a folder or a bucket, opened, tried and explained in the same way at both ends.

    file:///folder    s3://bucket/prefix    gs://bucket/prefix    az://account/container/prefix

Credentials and endpoint come from the provider's own environment variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY, …), as obstore
reads them. Its own defaults hold for a connection, 5 s, and for an answer, 30 s.
"""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

if TYPE_CHECKING:
    from obstore.store import RetryConfig

SCHEMES: Final = ("file", "s3", "gs", "az")
TRIED_UNDER: Final = ".seemly"  # where nothing but a trial ever lies
_PATIENCE: Final = timedelta(seconds=10)  # over all repetitions of one request
_GIVE_THEM: Final = "set the provider's own variables (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION)"
_CAUSES: Final = {  # what is found in an error's text → what to do about it
    r"NoSuchBucket|ContainerNotFound|bucket does not exist": "there is no such bucket; make it, or name another",
    r"BadScheme": "AWS_ENDPOINT_URL is http://, which is taken only with AWS_ALLOW_HTTP=true",
    r"169\.254\.169\.254|metadata\.google": f"there are no credentials; {_GIVE_THEM}",
    r"SignatureDoesNotMatch|InvalidAccessKeyId|ExpiredToken|401 Unauthorized|AuthenticationFailed": "it does not accept"
    f" the credentials; {_GIVE_THEM}",
    r"AccessDenied|403 Forbidden|AuthorizationFailure": "these credentials may not do what is needed: list, read, write"
    " and delete (the gateway: list and read)",
    r"Permission denied|Operation not permitted|Read-only file system": "this user cannot read and write the folder",
    r"No space left": "no space is left",
}


class StoreUnusable(Exception):
    """The store cannot be used as things are; the text says why and what to do."""


def open_store(url: str) -> ObjectStore:
    """The store at a URL. A folder is created, and one inside it removed when it becomes empty; nothing else is tried.

    Raises:
        ValueError: for a URL of no known kind, or one that names no bucket.
    """
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise ValueError(f"a store is named by {', '.join(f'{known}://' for known in SCHEMES)}, not by {scheme!r}")
    if scheme == "file":
        return from_url(url, mkdir=True, automatic_cleanup=True)
    retries: RetryConfig = {"max_retries": 3, "retry_timeout": _PATIENCE}
    # No client options: they would take the place of those in the provider's variables, AWS_ALLOW_HTTP among them.
    return from_url(url, retry_config=retries)


def withheld_beside(store_url: str) -> str:
    """Where withheld pictures lie when no place of their own is named. No tenant's name begins with a dot."""
    return f"{store_url.rstrip('/')}/.withheld"


def try_writing(store: ObjectStore) -> None:
    """Find out whether the store lets a worker do its work: write, delete, list.

    Raises:
        StoreUnusable: it does not.
    """
    key = f"{TRIED_UNDER}/{uuid.uuid4().hex}"
    with _failures_explained(store):
        obstore.put(store, key, b"")
        obstore.delete(store, key)
        next(iter(obstore.list(store, prefix=TRIED_UNDER, chunk_size=1)), None)


async def try_reading(store: ObjectStore) -> None:
    """Find out whether the store answers the gateway, which only reads.

    Raises:
        StoreUnusable: it does not.
    """
    with _failures_explained(store):
        await anext(aiter(obstore.list(store, prefix=TRIED_UNDER, chunk_size=1)), None)


@contextmanager
def _failures_explained(store: ObjectStore) -> Iterator[None]:
    if isinstance(store, LocalStore) and not Path(str(store.prefix)).is_dir():
        raise StoreUnusable("the folder is gone; make it, or mount what holds it")
    try:
        yield
    except (BaseError, OSError) as error:
        raise StoreUnusable(explained(error)) from error


def explained(error: Exception) -> str:
    """Why a store failed, and what to do. Of the error's own text nothing is told: a URL in it may hold a secret."""
    text = str(error)
    found = (advice for pattern, advice in _CAUSES.items() if re.search(pattern, text))
    return next(found, f"it does not answer ({type(error).__name__}); check that it runs and can be reached from here")
