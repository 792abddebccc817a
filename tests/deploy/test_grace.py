"""Whoever is told to end has the time that its work takes, in every overlay and under compose."""

import re
from collections.abc import Iterator

import pytest

from contract.request import MAX_PICTURES
from contract.steering import MAX_STEPS
from lab.bench.autoscale.arrivals import mean_row_steps
from service.webhooks.settings import Settings as DeliverySettings
from tests.deploy.compose import COMPOSE, ROOT, SERVICES
from tests.deploy.test_kubernetes import OVERLAYS, needs_kubectl, pods
from workers.worker import THREADS_END_WITHIN_S

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ROWS = 8  # of one picture's step, as the dearest of the short forms takes
ROW_STEPS = MAX_PICTURES * MAX_STEPS * ROWS  # of the longest job, at the model's own size
THREADS = 4  # that a worker waits for once it has drained
GATEWAY_ENDS_WITHIN_S = 10  # uvicorn's timeout_graceful_shutdown


def stated(pattern: str) -> float:
    """A number that docs/operations.md tells."""
    [found] = re.findall(pattern, " ".join(OPERATIONS.split()))
    return float(found)


def row_s_of(profile: str) -> float:
    """What one row of a UNet call takes: measured with the demonstration's model, promised of a GPU."""
    if profile == "gpu":
        return stated(r"a row of the UNet under ([\d.]+) ms") / 1000
    jobs_per_s = stated(r"with the demo model \(([\d.]+) jobs a second a pod")
    return 1 / (jobs_per_s * mean_row_steps())


def check(profile: str, drain_s: float, grace_s: float) -> None:
    assert ROW_STEPS * row_s_of(profile) <= drain_s
    assert drain_s + THREADS * THREADS_END_WITHIN_S < grace_s  # or it is killed before it has handed back what is left


def seconds(duration: str) -> float:
    """A duration of compose."""
    units = {"s": 1, "m": 60, "h": 3600}
    return sum(float(count) * units[unit] for count, unit in re.findall(r"(\d+)([smh])", duration))


def variables_of(container: dict[str, object]) -> Iterator[tuple[str, str]]:
    for entry in container.get("env", []):  # type: ignore[attr-defined]
        if "value" in entry:
            yield entry["name"], entry["value"]


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_outlasts_what_it_has_in_hand(overlay: str) -> None:
    found = pods(overlay)
    workers = [pod for name, pod in found.items() if name.startswith("worker")]
    assert workers
    for pod in workers:
        [worker] = pod["containers"]
        drain_s = float(dict(variables_of(worker))["SEEMLY_DRAIN_LIMIT_S"])
        check(overlay.removeprefix("demo-"), drain_s, pod["terminationGracePeriodSeconds"])
    assert found["webhooks"]["terminationGracePeriodSeconds"] > DeliverySettings().webhook_timeout_s
    assert found["gateway"]["terminationGracePeriodSeconds"] > GATEWAY_ENDS_WITHIN_S


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_composed_service_outlasts_what_it_has_in_hand(profile: str) -> None:
    worker = SERVICES[f"worker-{profile}"]
    told = re.fullmatch(r"\$\{SEEMLY_DRAIN_LIMIT_S:-(\d+)\}", worker["environment"]["SEEMLY_DRAIN_LIMIT_S"])
    assert told is not None, "SEEMLY_DRAIN_LIMIT_S of .env counts"
    check(profile, float(told[1]), seconds(worker["stop_grace_period"]))
    assert seconds(SERVICES["webhooks"]["stop_grace_period"]) > DeliverySettings().webhook_timeout_s
    assert seconds(COMPOSE["services"]["gateway"]["stop_grace_period"]) > GATEWAY_ENDS_WITHIN_S
