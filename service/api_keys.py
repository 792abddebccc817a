"""API keys: random, shown once, kept as HMAC under a pepper that is not in Redis.

    seemly_<id>_<secret>      id: 12 hex digits, names the entry; secret: 256 random bits in URL-safe base64

Entries are never removed, only ended: a deployment that has had a key does not fall back to serving without one.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, Field, StringConstraints
from redis import Redis

from contract import keys
from contract.strict import Strict, Text
from service.tenants import TenantLimits

PREFIX = "seemly"
_FORM = re.compile(rf"{PREFIX}_([0-9a-f]{{12}})_([A-Za-z0-9_-]{{43}})")

TenantName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Label = Annotated[Text, StringConstraints(strip_whitespace=True, max_length=100)]


class Scope(StrEnum):
    """What a key may be used for. None includes another."""

    GENERATE = "generate"
    MODERATE = "moderate"
    REVIEW = "review"
    ADMIN = "admin"


class NoSuchKey(LookupError):
    """No key has this id."""


class NoPepper(LookupError):
    """Keys cannot be made or checked: the secret under which they are kept is missing."""


class ApiKey(Strict):
    """A key as it is kept: everything but its secret."""

    id: str
    tenant: TenantName
    label: Label
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    revoked_at: AwareDatetime | None
    hmac_sha256: str

    def is_valid(self, at: datetime) -> bool:
        """Whether it may be used at that time."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)

    @property
    def state(self) -> str:
        """valid, expired or revoked, as of now."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if self.is_valid(datetime.now(UTC)) else "expired"


@dataclass(frozen=True)
class Pepper:
    """The secret that turns a key into what is kept of it."""

    secret: bytes

    @classmethod
    def read(cls, given: str | None, file: Path) -> Self:
        """The setting's value, else the file's.

        Raises:
            NoPepper: where there is neither.
        """
        try:
            found = (given or file.read_text()).strip().encode()
        except OSError as error:
            raise NoPepper(
                f"{file} cannot be read ({error.strerror}): it is made with the first key, by `seemly keys create`;"
                " put it back, or name it with SEEMLY_PEPPER_FILE"
            ) from None
        if len(found) < 32:
            raise NoPepper(f"the pepper in {'SEEMLY_PEPPER' if given else file} is shorter than 32 characters")
        return cls(found)

    @classmethod
    def make(cls, file: Path) -> Self:
        """A new one, in a file that only its owner can read.

        Raises:
            FileExistsError: there is one.
            OSError: it cannot be written.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        secret = secrets.token_hex(32).encode()
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(secret + b"\n")
        return cls(secret)

    @classmethod
    def read_or_make(cls, given: str | None, file: Path, *, is_in_use: bool) -> Self:
        """The secret there is, else a new one, unless something that is kept already hangs on a lost one.

        Raises:
            NoPepper: when it is lost.
        """
        return cls.read(given, file) if given or file.exists() or is_in_use else cls.make(file)

    def digest(self, key: str) -> str:
        """What is kept of a key."""
        return hmac.new(self.secret, key.encode(), hashlib.sha256).hexdigest()

    def derived(self, purpose: str) -> bytes:
        """Another secret, for something that is not a key."""
        return hmac.digest(self.secret, b"seemly: " + purpose.encode(), hashlib.sha256)

    def fits(self, kept: ApiKey, key: str) -> bool:
        """Whether this is that key, in a time that tells nothing."""
        return hmac.compare_digest(kept.hmac_sha256, self.digest(key))


def id_of(key: str) -> str | None:
    """The id within a key; None when it does not look like one."""
    found = _FORM.fullmatch(key)
    return found[1] if found else None


class KeyRing:
    """All keys of a deployment, for whoever administers them. Blocking."""

    def __init__(self, redis: Redis, pepper: str | None, pepper_file: Path) -> None:
        self._redis = redis
        self._pepper = pepper
        self._pepper_file = pepper_file

    def create(
        self, tenant: str, scopes: Sequence[Scope], label: str = "", expires_in: timedelta | None = None
    ) -> tuple[str, ApiKey]:
        """Make a key. It is returned here and kept nowhere.

        Raises:
            NoPepper: when there are keys already and their pepper is missing.
        """
        now = datetime.now(UTC)
        return self._add(tenant, scopes, label, now + expires_in if expires_in else None)

    def all(self) -> list[ApiKey]:
        """Every key that was ever made, oldest first."""
        kept: dict[Any, Any] = self._redis.hgetall(keys.API_KEYS)
        return sorted(map(ApiKey.model_validate_json, kept.values()), key=lambda key: key.created_at)

    def rotate(self, key_id: str, overlap: timedelta) -> tuple[str, ApiKey]:
        """Make a key that can do what another can, and let that other end after an overlap.

        Raises:
            NoSuchKey: also for one that has ended.
        """
        old, now = self._valid(key_id), datetime.now(UTC)
        made = self._add(old.tenant, old.scopes, old.label, old.expires_at)
        ends = now + overlap if old.expires_at is None else min(old.expires_at, now + overlap)
        self._put(old.model_copy(update={"expires_at": ends}))
        return made

    def revoke(self, key_id: str) -> ApiKey:
        """End a key now.

        Raises:
            NoSuchKey: also for one that has ended.
        """
        ended = self._valid(key_id).model_copy(update={"revoked_at": datetime.now(UTC)})
        self._put(ended)
        return ended

    def limits(self, tenant: str, changes: Mapping[str, Any], *, reset: bool = False) -> TenantLimits | None:
        """A tenant's own limits after these changes; None when it has none. What was never set stays unset."""
        if reset:
            self._redis.hdel(keys.TENANTS, tenant)
        kept = self._redis.hget(keys.TENANTS, tenant)
        before = TenantLimits() if kept is None else TenantLimits.model_validate_json(kept)
        if not changes:
            return None if kept is None else before
        after = TenantLimits.model_validate(before.model_dump(exclude_unset=True) | dict(changes))
        self._redis.hset(keys.TENANTS, tenant, after.model_dump_json(exclude_unset=True))
        return after

    def _add(self, tenant: str, scopes: Sequence[Scope], label: str, expires_at: datetime | None) -> tuple[str, ApiKey]:
        key_id = secrets.token_hex(6)
        secret = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
        key = ApiKey(
            id=key_id,
            tenant=tenant,
            label=label,
            scopes=tuple(scope for scope in Scope if scope in scopes),
            created_at=datetime.now(UTC),
            expires_at=expires_at,
            revoked_at=None,
            hmac_sha256=self._pepper_or_new().digest(secret),
        )
        self._put(key)
        return secret, key

    def _pepper_or_new(self) -> Pepper:
        is_in_use = bool(self._redis.exists(keys.API_KEYS, keys.SIGNING_SECRETS))
        return Pepper.read_or_make(self._pepper, self._pepper_file, is_in_use=is_in_use)

    def _valid(self, key_id: str) -> ApiKey:
        kept = self._redis.hget(keys.API_KEYS, key_id)
        if kept is None:
            raise NoSuchKey(f"there is no key {key_id!r}; `seemly keys list` shows all")
        key = ApiKey.model_validate_json(kept)
        if not key.is_valid(datetime.now(UTC)):
            raise NoSuchKey(f"the key {key_id} is {key.state} already")
        return key

    def _put(self, key: ApiKey) -> None:
        self._redis.hset(keys.API_KEYS, key.id, key.model_dump_json())
