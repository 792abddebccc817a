"""The whole way (HTTP, Redis, worker) against the bare engine in this process, the same pictures through both."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch

from contract.result import Status
from lab.bench.engine import PROMPT, run_engine, specs_for
from lab.bench.interleaved import Timing, time_interleaved
from seemly.embedded import EmbeddedStack
from seemly.settings import Settings
from workers import models
from workers.engine.engine import Engine, EngineLimits

WAIT_S = 60


@dataclass(frozen=True)
class ServiceComparison:
    """The same pictures, one a request, `concurrency` requests at a time."""

    pictures: int
    concurrency: int
    engine: Timing
    service: Timing

    @property
    def share(self) -> float:
        """What part of the bare engine's throughput is left over HTTP."""
        return self.engine.median / self.service.median


def compare_service(
    source: str, data: Path, *, pictures: int, concurrency: int, steps: int, repeats: int
) -> ServiceComparison:
    """Start the embedded stack on `data`, then time both, interleaved.

    Raises:
        RuntimeError: when a job does not succeed.
    """
    model = models.load(source, name="bench", device=torch.device("cpu"))
    engine = Engine(model.parts, model.methods, EngineLimits(pictures_in_flight=concurrency))
    specs = specs_for(model.info, range(pictures), steps)
    with (
        EmbeddedStack(Settings(data=data, port=0, model=source)) as stack,
        httpx.Client(base_url=stack.url, trust_env=False, timeout=WAIT_S + 10) as client,
    ):

        def one(seed: int) -> None:
            body = {"prompt": PROMPT, "seed": seed, "steps": steps}
            answer = client.post("/generate", json=body, headers={"Prefer": f"wait={WAIT_S}"}).raise_for_status()
            if answer.json()["status"] != Status.SUCCEEDED:
                raise RuntimeError(f"a job ended otherwise than succeeded: {answer.json()['status']}")

        def all_requests() -> None:
            with ThreadPoolExecutor(concurrency) as threads:
                list(threads.map(one, range(pictures)))

        timings = time_interleaved({"engine": lambda: run_engine(engine, specs), "service": all_requests}, repeats)
    return ServiceComparison(pictures, concurrency, timings["engine"], timings["service"])
