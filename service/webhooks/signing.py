"""Signing secrets of tenants, and the signatures of Standard Webhooks made with them.

    whsec_<base64>     256 bits, HMAC-SHA256(pepper, "webhook <tenant> <id>")

Redis holds each secret's id and times only. The secret itself is derived from the pepper, which is not in Redis,
whenever it is wanted: it can be shown again, and who reads Redis can sign nothing.
"""

import base64
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, TypeAdapter
from redis import Redis
from redis.client import Pipeline
from standardwebhooks.webhooks import Webhook

from contract import keys
from contract.strict import Strict
from service.api_keys import Pepper, TenantName

KEPT = 10  # of a tenant's secrets, with those that have ended


class NoSuchSecret(LookupError):
    """The tenant has no signing secret, or has one already."""


class SigningSecret(Strict):
    """A secret as it is kept: everything but itself."""

    id: str
    tenant: TenantName
    created_at: AwareDatetime
    ends_at: AwareDatetime | None

    def is_valid(self, at: datetime) -> bool:
        """Whether it signs at that time."""
        return self.ends_at is None or at < self.ends_at

    def shown(self, pepper: Pepper) -> str:
        """The secret, as receivers need it."""
        return f"whsec_{base64.b64encode(pepper.derived(f'webhook {self.tenant} {self.id}')).decode()}"


_OF_A_TENANT = TypeAdapter(tuple[SigningSecret, ...])


def secrets_of(kept: str | bytes | None) -> tuple[SigningSecret, ...]:
    """A tenant's secrets as `keys.SIGNING_SECRETS` keeps them, oldest first."""
    return _OF_A_TENANT.validate_json(kept) if kept else ()


def signed_headers(message_id: str, body: str, whsecs: Sequence[str], at: datetime) -> dict[str, str]:
    """The headers of Standard Webhooks: a signature for each valid secret, so that receivers may change over."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(whsec).sign(message_id, at, body) for whsec in whsecs),
    }


class SecretRing:
    """The signing secrets of a deployment, for whoever administers them. Blocking."""

    def __init__(self, redis: Redis, pepper: str | None, pepper_file: Path) -> None:
        self._redis = redis
        self._pepper = pepper
        self._pepper_file = pepper_file

    def create(self, tenant: str) -> tuple[str, SigningSecret]:
        """A tenant's first secret; with it, its requests may name webhooks.

        Raises:
            NoSuchSecret: when it has one already.
            NoPepper: when the pepper is missing.
        """
        pepper, made = self._pepper_or_new(), _new(tenant)
        if not self._redis.hsetnx(keys.SIGNING_SECRETS, tenant, _OF_A_TENANT.dump_json((made,))):
            raise NoSuchSecret(f"{tenant} has a signing secret already; `show` shows it, `rotate` makes another")
        return made.shown(pepper), made

    def shown(self, tenant: str) -> list[tuple[str, SigningSecret]]:
        """The secrets that are valid now, oldest first.

        Raises:
            NoSuchSecret: when there is none.
        """
        pepper, now = self._pepper_or_new(), datetime.now(UTC)
        found = [one for one in secrets_of(self._redis.hget(keys.SIGNING_SECRETS, tenant)) if one.is_valid(now)]
        if not found:
            raise NoSuchSecret(_none_of(tenant))
        return [(one.shown(pepper), one) for one in found]

    def rotate(self, tenant: str, overlap: timedelta) -> tuple[str, SigningSecret]:
        """Make another secret. Until the overlap is over, messages are signed with the old ones as well.

        Raises:
            NoSuchSecret: when there is none yet.
        """
        pepper, made, ends = self._pepper_or_new(), _new(tenant), datetime.now(UTC) + overlap

        def exchange(pipe: Pipeline) -> None:
            before = secrets_of(pipe.hget(keys.SIGNING_SECRETS, tenant))  # watching: answered at once
            if not before:
                raise NoSuchSecret(_none_of(tenant))
            ending = [one.model_copy(update={"ends_at": min(ends, one.ends_at or ends)}) for one in before]
            pipe.multi()
            pipe.hset(keys.SIGNING_SECRETS, tenant, _OF_A_TENANT.dump_json((*ending, made)[-KEPT:]))

        self._redis.transaction(exchange, keys.SIGNING_SECRETS)
        return made.shown(pepper), made

    def all(self) -> list[SigningSecret]:
        """Every tenant's secrets, by tenant."""
        kept: dict[Any, Any] = self._redis.hgetall(keys.SIGNING_SECRETS)
        return sorted((one for text in kept.values() for one in secrets_of(text)), key=lambda one: one.tenant)

    def _pepper_or_new(self) -> Pepper:
        is_in_use = bool(self._redis.exists(keys.API_KEYS, keys.SIGNING_SECRETS))
        return Pepper.read_or_make(self._pepper, self._pepper_file, is_in_use=is_in_use)


def _new(tenant: str) -> SigningSecret:
    return SigningSecret(id=secrets.token_hex(6), tenant=tenant, created_at=datetime.now(UTC), ends_at=None)


def _none_of(tenant: str) -> str:
    return f"{tenant} has no signing secret; make one with `seemly webhooks secret create {tenant}`"
