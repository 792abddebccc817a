"""Who is told what: each service and pod has its own settings and its own secrets, and nobody else's."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from seemly.doctor.settings import KINDS, variables
from tests.deploy.compose import EXAMPLE, SERVICES, env, environment, filled, variables_in
from tests.deploy.test_kubernetes import OVERLAYS, needs_kubectl, pods

REDIS = {f"REDIS_{user}_PASSWORD" for user in ("GATEWAY", "WORKER", "LAB", "WEBHOOKS", "COMMANDS", "ADMIN")}
STORE = {"STORE_ACCESS_KEY", "STORE_SECRET_KEY"}
WORKER, LAB = {"REDIS_WORKER_PASSWORD", *STORE}, {"REDIS_LAB_PASSWORD"}
SEEN = {
    "redis": REDIS,
    "bucket": set(),
    "store": STORE,
    "gateway": {"REDIS_GATEWAY_PASSWORD", "SEEMLY_PEPPER", *STORE},
    "commands": {"REDIS_COMMANDS_PASSWORD", "SEEMLY_PEPPER", *STORE},
    "webhooks": {"REDIS_WEBHOOKS_PASSWORD", "SEEMLY_PEPPER"},
    "worker-cpu": WORKER,
    "lab-cpu": LAB,
    "model": {"HF_TOKEN"},
    "worker-gpu": WORKER,
    "lab-gpu": LAB,
    "collector": set(),
    "prometheus": set(),
    "alertmanager": {"ALERTS_URL"},
    "grafana": {"GRAFANA_PASSWORD"},
}
SECRETS = set.union(*SEEN.values()) | {"SEEMLY_API_KEY"}
SET_OTHERWISE = {"SEEMLY_REDIS_URL", "SEEMLY_PEPPER_FILE"}  # second names of what is set


def marked(name: str) -> str:
    return f"value-of-{name}-"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_of_compose_sees_its_own_secrets_and_no_others(name: str) -> None:
    """Every variable that .env can hold has a value here, in case one is passed on by another way."""
    assert "env_file" not in SERVICES[name]
    everything = {variable: marked(variable) for variable in variables_in(EXAMPLE.read_text())}
    told = json.dumps([environment(name, everything), filled(SERVICES[name], everything)])
    assert {secret for secret in SECRETS if marked(secret) in told} == SEEN[name]


@pytest.mark.parametrize(("name", "kind"), [("gateway", "gateway"), ("worker-gpu", "worker"), ("webhooks", "webhooks")])
def test_whatever_a_process_can_be_told_in_env_it_is(name: str, kind: str) -> None:
    told = set(SERVICES[name]["environment"])
    assert variables(KINDS[kind]).keys() - told <= SET_OTHERWISE
    assert {one for one in told if one.startswith("SEEMLY_")} <= variables(KINDS[kind]).keys()


@pytest.mark.parametrize("name", ["worker-cpu", "lab-cpu", "lab-gpu"])
def test_other_services_are_told_settings_only(name: str) -> None:
    told = {one for one in SERVICES[name]["environment"] if one.startswith("SEEMLY_")}
    assert told <= variables(KINDS["worker"]).keys()
    passed_on = [key for key, value in SERVICES["worker-gpu"]["environment"].items() if value is None]
    assert set(passed_on) <= told


def test_env_is_made_by_the_command_that_the_example_tells(tmp_path: Path) -> None:
    [command] = [line[1:].strip() for line in EXAMPLE.read_text().splitlines() if line.startswith("#   awk ")]
    (tmp_path / EXAMPLE.name).write_text(EXAMPLE.read_text())
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, env={"PATH": os.environ["PATH"]})  # noqa: S602
    wanted = env(lambda name: "")
    made = dict(
        line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines() if not line.startswith("#") and line
    )
    assert made.keys() == wanted.keys()
    assert all(len(value) == 64 for value in made.values())
    assert len(set(made.values())) == len(made)


def keys_referred_to(pod: dict[str, Any]) -> set[str]:
    """`secret/key` of a pod's single values, `secret` of those that it gets whole."""
    found = {one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}
    for container in pod["containers"] + pod.get("initContainers", []):
        found |= {one["secretRef"]["name"] for one in container.get("envFrom", []) if "secretRef" in one}
        for one in container.get("env", []):
            if (reference := one.get("valueFrom", {}).get("secretKeyRef")) is not None:
                found.add(f"{reference['name']}/{reference['key']}")
    return found


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_sees_its_own_secrets_and_no_others(overlay: str) -> None:
    seen = {
        "gateway": {"seemly-redis/gateway-url", "seemly-pepper", "seemly-store"},
        "commands": {"seemly-redis/commands-url", "seemly-pepper", "seemly-store"},
        "webhooks": {"seemly-redis/webhooks-url", "seemly-pepper"},
        "worker": {"seemly-redis/worker-url", "seemly-store"},
        "lab": {"seemly-redis/lab-url"},
        "redis": {f"seemly-redis/{name.split('_')[1].lower()}-password" for name in REDIS},
        "store": {"seemly-store/AWS_ACCESS_KEY_ID", "seemly-store/AWS_SECRET_ACCESS_KEY"},
    }
    for name, pod in pods(overlay).items():
        assert keys_referred_to(pod) == seen[name.partition("-")[0]], name
