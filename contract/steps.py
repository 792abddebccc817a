"""What the methods did while a picture was denoised, step by step. A number that was not finite is told as null."""

from pydantic import Field

from contract.strict import Strict

PerStep = tuple[float | None, ...]


class GuidanceRecord(Strict):
    """How strong a guidance's push was at each step; 0 where there was none, as in a warm-up."""

    push: PerStep = Field(description="Mean magnitude of the push.")
    share: PerStep = Field(description="Part of the latent's elements that were over the mask.")


class TrajectoryRecord(Strict):
    """What a trajectory method saw at each step, and where it stepped in."""

    threshold: float = Field(description="A step is corrected from this score on.")
    scores: dict[str, PerStep] = Field(description="Every concept's cosine, by its name or text.")
    corrected_steps: tuple[int, ...] = Field(description="Counted from 0.")
    gradient_norms: PerStep = Field(description="One for each of `corrected_steps`.")
