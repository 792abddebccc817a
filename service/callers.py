"""Who calls: the tenant and the scopes behind a key, or this machine's developer while there are no keys."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from contract import keys
from service.api_keys import ApiKey, NoPepper, Pepper, Scope, id_of
from service.problems import NotReady, Unauthenticated
from service.silence import Silence

LOCAL_TENANT = "local"  # of callers on this machine, while there are no keys
LOOKED_UP_EVERY_S = 1.0


@dataclass(frozen=True)
class Caller:
    """On whose behalf a request is served; ids of other tenants' are not found."""

    tenant: str
    scopes: frozenset[Scope]
    is_local: bool = False  # this machine's developer, who shows no key and has no limits
    key_id: str | None = None

    @property
    def person(self) -> str:
        """Who decides and looks, as the audit has it: each person has a key of their own."""
        return f"key {self.key_id}" if self.key_id else "this machine"

    @property
    def sees_scores(self) -> bool:
        """Whether scores are told in full, whatever the policy says of those who only make pictures."""
        return bool(self.scopes - {Scope.GENERATE})


_DEVELOPER = Caller(LOCAL_TENANT, frozenset(Scope), is_local=True)


class Callers:
    """Finds out who calls. A gateway that others can reach always wants a key, one on loopback once there is one."""

    def __init__(
        self, redis: "Redis", silence: Silence, *, is_loopback: bool, pepper: str | None, pepper_file: Path
    ) -> None:
        self._redis = redis
        self._silence = silence
        self._need_keys = not is_loopback
        self._looked_up_at: float | None = None
        self._seen: dict[str, ApiKey] = {}
        self._given_pepper = pepper
        self._pepper_file = pepper_file
        self._pepper: Pepper | None = None

    async def need_keys(self) -> bool:
        """Whether a request without a key is refused."""
        if self._need_keys or not self._is_due():
            return self._need_keys
        try:
            async with self._silence.noticed_in_turn():
                self._need_keys = bool(await self._redis.exists(keys.API_KEYS))
            self._looked_up_at = time.monotonic()
        except RedisError:
            if self._looked_up_at is None:
                raise
        return self._need_keys

    def _is_due(self) -> bool:
        return self._looked_up_at is None or time.monotonic() - self._looked_up_at >= LOOKED_UP_EVERY_S

    async def of(self, key: str | None) -> Caller:
        """The caller who shows this key.

        Raises:
            Unauthenticated: without a key, or with one that is unknown, expired or revoked.
            NotReady: when keys cannot be checked here.
        """
        if not await self.need_keys():
            return _DEVELOPER
        if key is None:
            raise Unauthenticated("An API key is needed: send it as Authorization: Bearer seemly_….")
        kept = await self._kept(key)
        if kept is None or not self._checked().fits(kept, key) or not kept.is_valid(datetime.now(UTC)):
            raise Unauthenticated("The API key is not valid: it is unknown, expired or revoked.", is_invalid=True)
        return Caller(kept.tenant, frozenset(kept.scopes), key_id=kept.id)

    async def _kept(self, key: str) -> ApiKey | None:
        key_id = id_of(key)
        if key_id is None:
            return None
        try:
            async with self._silence.noticed_in_turn():
                kept = await self._redis.hget(keys.API_KEYS, key_id)
        except RedisError:
            if key_id not in self._seen:
                raise
            return self._seen[key_id]  # without Redis there is nothing to be had but /metrics, which is wanted then
        if kept is None:
            return None
        self._seen[key_id] = ApiKey.model_validate_json(kept)
        return self._seen[key_id]

    async def pepper_or_new(self) -> Pepper:
        """The pepper; a first one is made where nothing hangs on one yet.

        Raises:
            NotReady: when there is none and none can be made.
        """
        if self._pepper is None and not (
            self._given_pepper or self._pepper_file.exists() or await self._hangs_on_one()
        ):
            try:
                self._pepper = Pepper.make(self._pepper_file)
            except FileExistsError:
                pass  # another process was first
            except OSError as error:
                raise NotReady("No pepper can be made here, for links and for prompts at rest.", 30) from error
        return self._checked()

    async def _hangs_on_one(self) -> bool:
        async with self._silence.noticed_in_turn():
            return bool(await self._redis.exists(keys.API_KEYS, keys.SIGNING_SECRETS))

    def _checked(self) -> Pepper:
        if self._pepper is None:
            try:
                self._pepper = Pepper.read(self._given_pepper, self._pepper_file)
            except NoPepper as error:
                raise NotReady("Nothing can be signed or checked here: the pepper is missing.", 30) from error
        return self._pepper
