"""What the delivery process reads from the environment, once."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis.connection import parse_url

from contract.logs import LogFormat
from service.webhooks.schedule import PAUSES_S
from service.webhooks.targets import Networks

LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)]


def _listed(pauses: object) -> object:
    return pauses.split(",") if isinstance(pauses, str) else pauses


class Settings(BaseSettings):
    """Every setting of `seemly webhooks deliver`; those that the gateway has as well mean the same there."""

    model_config = SettingsConfigDict(
        env_prefix="SEEMLY_", extra="ignore", frozen=True, populate_by_name=True, env_ignore_empty=True
    )

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("SEEMLY_REDIS_URL", "REDIS_URL"),
        description="redis://, rediss:// or unix:// address.",
    )
    data: Path = Field(Path("data/state"), description="Folder of this deployment's own files.")
    pepper: SecretStr | None = Field(
        None, description="Secret from which signing secrets are derived. Null: in a file."
    )
    pepper_file: Path | None = Field(None, description="Where that secret lies. Null: `pepper` in `data`.")
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$",
        description="Where users reach the gateway, put before the addresses in messages. Null: nothing is.",
    )
    webhook_networks: Networks = Field(
        (), description="Private networks that webhooks may reach, over plain http as well, as in 10.0.0.0/8,fd00::/8."
    )
    webhook_pauses_s: Annotated[tuple[float, ...], NoDecode, BeforeValidator(_listed)] = Field(
        PAUSES_S, description="Between one attempt and the next, in seconds; as many further attempts are made."
    )
    webhook_timeout_s: float = Field(15, gt=0, description="Longest attempt, from looking up the name to the answer.")
    webhook_lease_s: float = Field(60, gt=0, description="A delivery taken so long ago is taken by another process.")
    webhook_slots: int = Field(64, ge=1, description="Deliveries sent at once.")
    webhook_slots_of_one: int = Field(
        8, ge=1, description="Of these, of one tenant: its slow receivers hold up its own."
    )
    webhook_metrics_port: int = Field(0, ge=0, le=65_535, description="Port of this process's /metrics; 0: none.")
    webhook_metrics_host: str = Field("127.0.0.1", description="Address that /metrics listens on.")
    webhook_health_port: int = Field(
        0, ge=0, le=65_535, description="Port of this process's /healthz, for probes; 0: none."
    )
    webhook_health_host: str = Field("127.0.0.1", description="Address that /healthz listens on.")
    log_level: LogLevel = "INFO"
    log_format: LogFormat = Field("text", description="text, or json: one object a line.")

    @field_validator("redis_url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parse_url(url)  # type: ignore[no-untyped-call]
        return url

    @model_validator(mode="after")
    def _lease_outlives_an_attempt(self) -> Self:
        if self.webhook_lease_s <= self.webhook_timeout_s:
            raise ValueError(
                f"a lease of {self.webhook_lease_s:g} s ends within an attempt of {self.webhook_timeout_s:g} s;"
                " raise SEEMLY_WEBHOOK_LEASE_S or lower SEEMLY_WEBHOOK_TIMEOUT_S"
            )
        return self

    @property
    def pepper_path(self) -> Path:
        """Where the secret lies from which signing secrets are derived."""
        return self.pepper_file or self.data / "pepper"
