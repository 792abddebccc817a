"""Removes pictures whose job's record is gone: the one place where a stored picture is ever old.

A delivered picture is readable as long as its record. Files that no result names go the same way, when nothing else
removed them: those of an attempt that stored and then lost its worker, whose job ended without another delivery
(`poison_job`, `lost`, canceled, expired). Only names that `contract.job.picture_key` gives are touched, so that other
files in the same bucket are safe.
"""

import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.store import ObjectStore
from redis.exceptions import RedisError

from contract.request import OutputFormat

if TYPE_CHECKING:
    from obstore import ObjectMeta

log = logging.getLogger(__name__)

LISTED_AT_ONCE = 500
PAUSE_S = 0.1  # after each of these lists, so that a sweep never takes the store from the jobs

_FORMATS = "|".join(output_format.value for output_format in OutputFormat)
PICTURE_KEY = re.compile(rf"[^/]+/[0-9a-f-]{{32,36}}/\d+-\d+(\.thumbnail)?\.({_FORMATS})")


@dataclass(frozen=True)
class Sweeper:
    """Sweeps one store. Several workers may sweep the same one at once."""

    store: ObjectStore
    keep_s: Callable[[str], float]  # of a tenant
    on_removed: Callable[[str, list[str]], None] = lambda tenant, names: None  # a tenant's, without its own name

    def sweep(self, is_closing: Callable[[], bool] = lambda: False) -> int:
        """Remove every picture stored more than `keep_s` ago. How many; what a failing store keeps waits.

        What goes is told list by list: however much goes, little is held, or unsaid should the process be killed.
        """
        count = 0
        try:
            for listed in obstore.list(self.store, chunk_size=LISTED_AT_ONCE):
                count += self._sweep(listed, is_closing)
                if is_closing():
                    break
                time.sleep(PAUSE_S)
        except RedisError:  # what went could not be told
            raise
        except Exception as error:  # noqa: BLE001 - a file too many is a loss of space, not of a job
            log.warning("the store could not be swept to its end: %s", type(error).__name__)
        if count:
            log.info("removed %d pictures whose jobs are forgotten", count)
        return count

    def _sweep(self, listed: "Iterable[ObjectMeta]", is_closing: Callable[[], bool]) -> int:
        now, removed = datetime.now(UTC), defaultdict[str, list[str]](list)
        try:
            for found in listed:
                if is_closing():
                    break
                tenant, _, name = found["path"].partition("/")
                if not PICTURE_KEY.fullmatch(found["path"]):
                    continue
                old = now - timedelta(seconds=self.keep_s(tenant))
                if found["last_modified"] < old and self._remove(found["path"]):
                    removed[tenant].append(name)
        finally:
            for tenant, names in removed.items():
                self.on_removed(tenant, names)
        return sum(map(len, removed.values()))

    def _remove(self, key: str) -> bool:
        try:
            obstore.delete(self.store, key)
        except FileNotFoundError:
            return False  # another worker was first
        return True
