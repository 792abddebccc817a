"""The engine against diffusers' own StableDiffusionPipeline: same weights, seeds and steps, and both judge."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from contract.model import ModelInfo
from contract.plan import SafetyPlan
from contract.request import Scheduler
from lab.bench.interleaved import Timing, time_interleaved
from workers import models
from workers.engine.engine import Engine, EngineLimits
from workers.engine.picture import PictureSpec

PROMPT = "a cat"


@dataclass(frozen=True)
class Comparison:
    """Pictures per second of both at one batch size."""

    pictures: int
    engine: Timing
    pipeline: Timing

    @property
    def ratio(self) -> float:
        """Median engine throughput over median pipeline throughput."""
        return self.pipeline.median / self.engine.median


def compare(source: str, batch_sizes: tuple[int, ...], *, steps: int, repeats: int) -> list[Comparison]:
    """Measure every batch size, the arms of all sizes interleaved in one run."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = models.load(source, name="bench", device=device, dtype=dtype)
    pipeline = StableDiffusionPipeline.from_pretrained(source, dtype=dtype, low_cpu_mem_usage=False).to(device)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    engine = Engine(model.parts, model.methods, EngineLimits(pictures_in_flight=max(batch_sizes)))
    arms: dict[str, Callable[[], None]] = {}
    for size in batch_sizes:
        specs = specs_for(model.info, range(size), steps)
        arms[f"engine-{size}"] = partial(_run_unseen, engine, specs, count())
        arms[f"pipeline-{size}"] = partial(_run_pipeline, pipeline, specs)
    timings = time_interleaved(arms, repeats)
    return [Comparison(size, timings[f"engine-{size}"], timings[f"pipeline-{size}"]) for size in batch_sizes]


def specs_for(info: ModelInfo, seeds: Iterable[int], steps: int) -> list[PictureSpec]:
    """One picture a seed at the model's own size and guidance, judged by its filter."""
    return [
        PictureSpec(
            job_id=f"bench-{seed}",
            index=0,
            prompt=PROMPT,
            negative_prompt="",
            seed=seed,
            steps=steps,
            guidance_scale=info.default_guidance_scale,
            scheduler=Scheduler.DDIM,
            width=info.native_width_px,
            height=info.native_height_px,
            plan=SafetyPlan.from_short_form("filter"),
        )
        for seed in seeds
    ]


def run_engine(engine: Engine, specs: Sequence[PictureSpec]) -> None:
    """All pictures through the engine, as many at once as its limits allow."""
    for spec in specs:
        engine.submit(spec)
    while not engine.is_idle:
        engine.step()


def _run_unseen(engine: Engine, specs: Sequence[PictureSpec], rounds: Iterator[int]) -> None:
    """Under a prompt of its own each round: the engine keeps encoded texts, the pipeline does not."""
    prompt = f"{PROMPT} {next(rounds)}"
    run_engine(engine, [replace(spec, prompt=prompt) for spec in specs])


def _run_pipeline(pipeline: StableDiffusionPipeline, specs: Sequence[PictureSpec]) -> None:
    pipeline(
        [spec.prompt for spec in specs],
        num_inference_steps=specs[0].steps,
        guidance_scale=specs[0].guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(spec.seed) for spec in specs],
    )
