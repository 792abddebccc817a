"""What the command line reads from the environment, once."""

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.model import ServedName

REPOSITORY = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Settings of the client and of the embedded stack. The gateway's and the worker's own stand in their packages."""

    model_config = SettingsConfigDict(
        env_prefix="SEEMLY_", extra="ignore", populate_by_name=True, env_ignore_empty=True
    )

    url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/]+",
        description="The service to talk to; without one, commands start the embedded stack.",
    )
    api_key: SecretStr | None = Field(None, description="Sent as a bearer token to the service at SEEMLY_URL.")

    data: Path = Field(Path("data/stack"), description="Folder of the embedded stack: Redis' file, pictures, logs.")
    redis_url: str | None = Field(None, validation_alias="REDIS_URL", description="A Redis to use instead of an own.")
    host: str = Field("127.0.0.1", description="Address the embedded gateway listens on.")
    port: int = Field(8000, ge=0, le=65535, validation_alias=AliasChoices("SEEMLY_PORT", "PORT"), description="0: any.")
    model: str = Field(str(REPOSITORY / "models" / "demo"), description="Folder of the model that the worker serves.")
    variants: str = Field(str(REPOSITORY / "models" / "variants"), description="Folder of the model's erased weights.")
    model_name: ServedName = Field("demo", description="Name the model is served under.")
    lab: bool = Field(False, description="Start a lab's worker too, which makes erased weights as jobs ask for them.")
    policy: str = Field("default", description="The policy that the gateway applies.")
    pepper: SecretStr | None = Field(None, description="Secret under which API keys are kept; null: in a file.")
    pepper_file: Path | None = Field(None, description="Where that secret lies; null: `pepper` in SEEMLY_DATA.")
    store_url: str | None = Field(None, description="Where pictures are kept; null: a folder in SEEMLY_DATA.")

    @field_validator("redis_url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is not None:
            from redis.connection import parse_url  # here: most commands need no Redis

            parse_url(url)  # type: ignore[no-untyped-call]
        return url
