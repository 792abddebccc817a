"""What the worker reads from the environment, once."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.connection import parse_url

from contract.logs import LogFormat
from contract.model import ServedName
from contract.plan import SafetyPlan
from contract.store import withheld_beside
from contract.strictness import FloorPlan
from workers.safety.detectors.choices import DetectorChoices

LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)]


class Settings(BaseSettings):
    """Every setting of a worker. Times in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="SEEMLY_", extra="ignore", populate_by_name=True, env_ignore_empty=True
    )

    redis_url: str = Field("redis://127.0.0.1:6379/0", validation_alias="REDIS_URL", description="redis:// or unix://.")
    model: str = Field("models/demo", description="Folder or hub id of the model, in diffusers layout.")
    model_revision: str | None = Field(None, description="Commit of a hub id; null: the newest, which may change.")
    model_sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="Hash that the model must have, as `seemly models hash` tells it; null: any.",
    )
    model_name: ServedName = Field("demo", description="Name the model is served under; names the queue as well.")
    allow_unsafe_redis: bool = Field(
        False, description="Work over a Redis that may evict jobs, or forgets them when it ends; for trials only."
    )
    variants: Path = Field(Path("models/variants"), description="Folder of erased weights, one folder each.")
    variant_bytes: int = Field(4 << 30, ge=1, description="Memory on the device for erased weights at one time.")
    device: str = Field("auto", description="cuda, cpu or auto: the GPU when there is one.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="auto: what suits the device.")
    torch_threads: int | None = Field(None, ge=1, description="Threads torch computes with; null: torch's own choice.")
    slots: int = Field(32, ge=1, description="Jobs held at once; more wait in Redis.")
    pictures_in_flight: int = Field(16, ge=1, description="Pictures denoised at once; more wait in the engine.")
    unet_rows: int = Field(32, ge=1, description="Rows of one UNet call; a picture takes one per conditioning.")
    pictures_judged: int = Field(4, ge=1, description="Pictures decoded and judged together.")

    detectors: DetectorChoices = Field(
        (),
        description='Beside the model\'s own, a JSON list: [{"name": "nudenet", "sha256": "…"}]; docs/moderation.md.',
    )
    detector_limit_s: float = Field(30, gt=0, description="Longest answer of a detector; then pictures are withheld.")

    provenance: Literal["none", "metadata", "signed"] = Field(
        "metadata", description="What files say of their origin: nothing, ids and hashes, or also a C2PA manifest."
    )
    provenance_certificate: Path | None = Field(None, description="Chain in PEM, for `signed`.")
    provenance_key: Path | None = Field(None, description="Its key in PEM, P-256.")

    data: Path = Field(Path("data/state"), description="Folder of everything kept on this machine.")
    store_url: str | None = Field(None, description="Where pictures go: file://, s3://, gs://, az://; null: in data.")
    floor: FloorPlan = Field(SafetyPlan(), description="What every job gets at least; as the gateway has it.")
    withheld_url: str | None = Field(
        None, description="Where pictures go that only people who review may see; null: `.withheld` in the store."
    )
    withheld_keep_s: int = Field(
        7 * 86_400, ge=1, description="How long these are kept, and the records of their jobs."
    )
    record_ttl_s: int = Field(86_400, ge=1, description="How long a finished job's record is kept.")
    audit_keep_s: int = Field(30 * 86_400, ge=1, description="How long verdicts stay on record; see `seemly audit`.")
    sweep_s: float = Field(3600, gt=0, description="Between two removals of what is old: pictures, entries of audits.")
    sweep_margin_s: float = Field(3600, ge=0, description="How much longer than its record a picture is kept.")

    heartbeat_s: float = Field(10, gt=0, description="Between two renewals of the leases.")
    lease_s: int = Field(60, ge=1, description="A job whose lease was not renewed for so long is given to another.")
    maintenance_s: float = Field(15, gt=0, description="Between two searches for abandoned jobs.")
    watch_s: float = Field(1, gt=0, description="Between two looks for cancellations.")
    progress_s: float = Field(0.25, gt=0, description="Between two rounds of progress events.")
    step_limit_s: float = Field(120, gt=0, description="Longest step of the engine; past it the worker ends.")
    drain_limit_s: float | None = Field(
        None, gt=0, description="Longest wait for jobs in flight at SIGTERM; null: none."
    )

    metrics_port: int = Field(0, ge=0, le=65535, description="Port of the worker's own /metrics; 0: none.")
    metrics_host: str = Field("127.0.0.1", description="Address that /metrics listens on.")
    health_port: int = Field(0, ge=0, le=65535, description="Port of the worker's /healthz, for probes; 0: none.")
    health_host: str = Field("127.0.0.1", description="Address that /healthz listens on.")
    otlp_url: str | None = Field(
        None, pattern=r"^https?://[^\s/]+", description="Where traces are sent by OTLP over HTTP. Null: nowhere."
    )
    trace_share: float = Field(1.0, ge=0, le=1, description="Share of the traces begun here that are kept.")
    log_level: LogLevel = Field("INFO", description="Level of the worker's own log; RQ's is kept at WARNING.")
    log_format: LogFormat = Field("text", description="text, or json: one object a line.")

    @field_validator("redis_url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parse_url(url)
        return url

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Self:
        if self.lease_s < 2 * self.heartbeat_s:
            raise ValueError(
                f"a lease of {self.lease_s} s ends before two heartbeats of {self.heartbeat_s} s;"
                " raise SEEMLY_LEASE_S or lower SEEMLY_HEARTBEAT_S"
            )
        return self

    @property
    def picture_store_url(self) -> str:
        """Where pictures go."""
        return self.store_url or f"file://{(self.data / 'pictures').resolve()}"

    @property
    def withheld_store_url(self) -> str:
        """Where pictures go that only people who review may see."""
        return self.withheld_url or withheld_beside(self.picture_store_url)

    @property
    def homeless_grace_s(self) -> float:
        """How long a job may be seen nowhere in the queue before it counts as lost."""
        return self.lease_s / 2
