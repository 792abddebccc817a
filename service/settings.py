"""The gateway's settings, read from the environment once."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.connection import parse_url

from contract.logs import LogFormat
from contract.model import ServedName
from contract.plan import SafetyPlan
from contract.store import withheld_beside
from contract.strictness import FloorPlan
from service.tenants import Rate, TenantLimits
from service.webhooks.targets import Networks

LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)]


class Settings(BaseSettings):
    """Every setting is read from `SEEMLY_` and its name in capitals; the Redis address from `REDIS_URL` as well."""

    model_config = SettingsConfigDict(
        env_prefix="SEEMLY_",
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        env_ignore_empty=True,
        env_parse_none_str="null",
    )

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("SEEMLY_REDIS_URL", "REDIS_URL"),
        description="redis://, rediss:// or unix:// address.",
    )
    allow_unsafe_redis: bool = Field(
        False, description="Serve over a Redis that may evict jobs, or forgets them when it ends; for trials only."
    )
    data: Path = Field(Path("data/state"), description="Folder of this deployment's own files.")
    store_url: str | None = Field(
        None, description="Where pictures lie: file://, s3://, gs://, az://. Null: in `data`."
    )
    withheld_url: str | None = Field(
        None, description="Where pictures lie that only people who review may see. Null: `.withheld` in the store."
    )
    withheld_keep_s: int = Field(
        7 * 86_400, ge=1, description="How long a picture awaits a person; the workers' setting of the same name."
    )
    policy: str = Field("default", description="Name of a shipped policy, or path of a YAML file.")
    floor: FloorPlan = Field(
        SafetyPlan(), description="What every request gets at least, whatever its policy, as in sld:strong,filter."
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$",
        description="Where users reach the gateway, for links to pictures. Null: where each request arrived.",
    )
    default_model: ServedName | None = Field(
        None, description="Model of requests that name none. Null: the only one served."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; loopback only while there are no API keys.")
    pepper: SecretStr | None = Field(None, description="Secret under which API keys are kept. Null: in a file.")
    pepper_file: Path | None = Field(None, description="Where that secret lies. Null: `pepper` in `data`.")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on; 0: any.")
    otlp_url: str | None = Field(
        None, pattern=r"^https?://[^\s/]+", description="Where traces are sent by OTLP over HTTP. Null: nowhere."
    )
    trace_share: float = Field(1.0, ge=0, le=1, description="Share of the traces begun here that are kept.")
    trace_parents: bool = Field(
        False,
        description="Continue the traces that requests name, kept where these say so; only where every caller is"
        " trusted. Otherwise such a trace is linked.",
    )
    log_level: LogLevel = Field("INFO", description="Level of the log: DEBUG, INFO, WARNING or ERROR.")
    log_format: LogFormat = Field("text", description="text, or json: one object a line.")
    limit_requests: Rate | None = Field("600/minute", description="Of a tenant with a key; null: none.")
    limit_jobs: int | None = Field(500, ge=1, description="Unfinished jobs of a tenant with a key; null: any number.")
    limit_cost: int | None = Field(None, ge=1, description="Their pixels × steps × branches × pictures; null: any.")
    limit_refusals: int | None = Field(
        50, ge=1, description="Blocked pictures and refused prompts of one end user in an hour; null: any."
    )
    limit_webhooks: int | None = Field(
        10_000, ge=1, description="Undelivered webhooks of a tenant with a key; null: any."
    )
    idempotency_ttl_s: int = Field(86_400, ge=1, description="How long an Idempotency-Key stands for its job.")
    queue_limit: int = Field(1000, ge=0, description="Jobs that may wait for one model; further ones get 503.")
    max_body_bytes: int = Field(64 * 1024, ge=1024, description="Longest body of a request.")
    max_upload_bytes: int = Field(24 << 20, ge=1024, description="Largest body that brings pictures to be judged.")
    moderations_at_once: int = Field(16, ge=1, description="Moderations in hand, with their uploads; others get 503.")
    moderation_wait_s: float = Field(60, gt=0, description="How long a moderation waits for its verdicts.")
    provenance_anchors: Path | None = Field(
        None, description="Authorities in PEM whose manifests count as trusted; null: nobody's do."
    )
    result_ttl_s: int = Field(86_400, ge=1, description="How long the record of a job ended here is kept.")
    images_wait_s: float = Field(300, gt=0, description="How long POST /v1/images/generations waits for its pictures.")
    webhook_networks: Networks = Field(
        (), description="Private networks that webhooks may reach, over plain http as well, as in 10.0.0.0/8,fd00::/8."
    )
    redis_timeout_s: float = Field(1.0, gt=0, description="Longest wait for one reply of Redis.")

    @field_validator("redis_url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parse_url(url)  # type: ignore[no-untyped-call]
        return url

    @property
    def limits(self) -> TenantLimits:
        """The limits of tenants that have none of their own."""
        return TenantLimits(
            requests=self.limit_requests,
            jobs=self.limit_jobs,
            cost=self.limit_cost,
            refusals=self.limit_refusals,
            webhooks=self.limit_webhooks,
        )

    @property
    def pepper_path(self) -> Path:
        """Where the secret lies under which API keys are kept."""
        return self.pepper_file or self.data / "pepper"

    @property
    def pictures_url(self) -> str:
        """Where the workers put pictures and the gateway reads them."""
        return self.store_url or f"file://{(self.data / 'pictures').absolute()}"

    @property
    def withheld_pictures_url(self) -> str:
        """Where the workers put pictures that only people who review may see."""
        return self.withheld_url or withheld_beside(self.pictures_url)
