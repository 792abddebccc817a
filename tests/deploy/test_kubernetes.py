"""The overlays as `kubectl kustomize` renders them: valid, restricted, and of one mind about scaling and ending."""

import json
import os
import re
import shutil
import subprocess
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from lab.environment import prometheus_rule
from seemly.doctor.settings import KINDS, variables
from workers.checkpoint import hash_weights

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(__file__).parent / "schemas"
OVERLAYS = ("demo-cpu", "gpu")
OTHERS = {
    "keda.sh/v1alpha1/ScaledObject": "scaledobject.json",
    "monitoring.coreos.com/v1/ServiceMonitor": "servicemonitor.json",
    "monitoring.coreos.com/v1/PrometheusRule": "prometheusrule.json",
}
Object = dict[str, Any]

# Debian's own kubectl is of 2021, and its kustomize too old for these files.
needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl (1.27 or newer) is not on PATH: the overlays are not rendered"
)


@cache
def objects(overlay: str) -> list[Object]:
    """What would be applied, of an overlay by its name or its folder."""
    command = ["kubectl", "kustomize", str(ROOT / "k8s" / "overlays" / overlay)]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def of_kind(overlay: str, *kinds: str) -> list[Object]:
    return [one for one in objects(overlay) if one["kind"] in kinds]


def pods(overlay: str) -> dict[str, Object]:
    """Name → pod spec."""
    owners = of_kind(overlay, "Deployment", "StatefulSet")
    return {owner["metadata"]["name"]: owner["spec"]["template"]["spec"] for owner in owners}


def containers(overlay: str) -> list[Object]:
    return list(
        chain.from_iterable(pod["containers"] + pod.get("initContainers", []) for pod in pods(overlay).values())
    )


@cache
def validators() -> dict[str, Any]:
    bundle = json.loads((SCHEMAS / "kubernetes-1.33.json").read_text())
    known = {kind: schema | {"$defs": bundle["$defs"]} for kind, schema in bundle["kinds"].items()}
    known |= {kind: json.loads((SCHEMAS / name).read_text()) for kind, name in OTHERS.items()}
    return {kind: jsonschema_rs.validator_for(schema) for kind, schema in known.items()}


def validator_of(one: Object) -> Any:
    return validators()[f"{one['apiVersion']}/{one['kind']}"]


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_fits_the_schemas_of_kubernetes_keda_and_prometheus(overlay: str) -> None:
    wrong = []
    for one in objects(overlay):
        errors = validator_of(one).iter_errors(one)
        wrong += [f"{one['kind']} {one['metadata']['name']}: {error}" for error in errors]
    assert wrong == []


def test_the_schemas_find_a_misspelt_field() -> None:
    for kind, validator in validators().items():
        version, _, name = kind.rpartition("/")
        wrong = {"apiVersion": version, "kind": name, "metadata": {"name": "a"}, "spek": {}}
        assert any("spek" in str(error) for error in validator.iter_errors(wrong)), kind


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_keeps_to_the_restricted_standard(overlay: str) -> None:
    [namespace] = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(overlay).values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(overlay):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"].keys() == {"requests", "limits"}
        assert not container["image"].endswith((":latest", "seemly-gateway", "seemly-worker"))


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_long_running_container_is_probed(overlay: str) -> None:
    for pod in pods(overlay).values():
        for container in pod["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_is_open_that_no_policy_opens(overlay: str) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(overlay, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for spec in policies.values():
        rules = spec.get("ingress", []) + spec.get("egress", [])
        assert all(rule["ports"] and (rule.get("from") or rule.get("to")) for rule in rules)


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_referred_to_and_never_held(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == []
    settings = chain.from_iterable(one["data"].items() for one in of_kind(overlay, "ConfigMap"))
    assert not [name for name, _ in settings if any(word in name for word in ("PASSWORD", "SECRET", "PEPPER"))]


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_set_is_a_setting(overlay: str) -> None:
    known = {variable for kind in KINDS.values() for variable in variables(kind)}
    told = {entry["name"] for container in containers(overlay) for entry in container.get("env", [])}
    told |= {name for one in of_kind(overlay, "ConfigMap") for name in one["data"] if name.isupper()}
    assert {name for name in told if name.startswith("SEEMLY_")} <= known


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_workers_are_scaled_by_all_there_is_to_do(overlay: str) -> None:
    for scaled in of_kind(overlay, "ScaledObject"):
        name = scaled["spec"]["scaleTargetRef"]["name"]
        [owner] = [one for one in of_kind(overlay, "Deployment") if one["metadata"]["name"] == name]
        assert "replicas" not in owner["spec"]  # or every apply would undo the scaling
        [trigger] = scaled["spec"]["triggers"]
        model = worker_settings(overlay)["SEEMLY_MODEL_NAME"]
        assert trigger["metadata"]["query"] == f'max(seemly_queue_unfinished{{model="{model}"}})'
        assert trigger["metadata"]["activationThreshold"] == "0"
        assert scaled["spec"]["fallback"]["replicas"] >= 1


def worker_settings(overlay: str) -> dict[str, str]:
    [found] = [one["data"] for one in of_kind(overlay, "ConfigMap") if "SEEMLY_MODEL_NAME" in one["data"]]
    return found


def test_the_demonstrations_model_is_pinned_to_the_one_of_this_repository() -> None:
    pin = f"SEEMLY_MODEL_SHA256={hash_weights(ROOT / 'models' / 'demo')}"
    assert pin in (ROOT / "k8s" / "models" / "demo" / "kustomization.yaml").read_text()
    assert pin.replace("=", ": ") in (ROOT / "docker-compose.yml").read_text()


@needs_kubectl
def test_each_revision_of_a_model_lies_in_a_folder_of_its_own() -> None:
    """A folder that had another's weights in it would be served as the pinned revision."""
    told = worker_settings("gpu")
    folder = "/cache/$(SEEMLY_MODEL_NAME)/$(SEEMLY_MODEL_REVISION)"
    assert told["SEEMLY_MODEL_NAME"]
    assert told["SEEMLY_MODEL_REVISION"]
    for name in ("worker-sd15", "lab-sd15"):
        pod = pods("gpu")[name]
        assert f"--into={folder}" in pod["initContainers"][0]["args"]
        assert {"name": "SEEMLY_MODEL", "value": folder} in pod["containers"][0]["env"]
        assert {"name": "models", "mountPath": "/cache", "readOnly": True} in pod["containers"][0]["volumeMounts"]


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_workers_and_the_lab_share_what_was_erased_wherever_they_run(overlay: str) -> None:
    claims = {one["metadata"]["name"]: one["spec"]["accessModes"] for one in of_kind(overlay, "PersistentVolumeClaim")}
    making = {name: pod for name, pod in pods(overlay).items() if name.startswith(("worker", "lab"))}
    assert len(making) == 2
    for name, pod in making.items():
        [container] = pod["containers"]
        assert {"name": "erased", "mountPath": "/erased"} in container["volumeMounts"]  # promoting writes there too
        assert {"name": "SEEMLY_VARIANTS", "value": "/erased/variants"} in container["env"]
        for volume in pod["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or claims[claim] == ["ReadWriteMany"] or keeps_to_one_node(overlay, name), claim


def keeps_to_one_node(overlay: str, name: str) -> bool:
    """Whether a pod runs only where all that mount the same volume run."""
    [owner] = [one for one in of_kind(overlay, "Deployment") if one["metadata"]["name"] == name]
    template = owner["spec"]["template"]
    rules = template["spec"].get("affinity", {}).get("podAffinity", {})
    [term] = rules.get("requiredDuringSchedulingIgnoredDuringExecution", [{}])
    wanted = term.get("labelSelector", {}).get("matchLabels", {})
    is_met_by_itself = wanted.items() <= template["metadata"]["labels"].items()  # or the first would find no node
    return bool(wanted) and is_met_by_itself and term["topologyKey"] == "kubernetes.io/hostname"


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_monitoring_carries_the_label_that_its_prometheus_looks_for(overlay: str) -> None:
    found = of_kind(overlay, "ServiceMonitor", "PrometheusRule")
    assert len(found) == 3
    assert {one["metadata"]["labels"]["release"] for one in found} == {"kube-prometheus-stack"}
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in of_kind(overlay, "Deployment")]
    assert not [one for one in labels if "release" in one]


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_target_that_is_down_is_told_of_by_the_name_that_prometheus_gives_it(overlay: str) -> None:
    groups = yaml.safe_load(prometheus_rule())["spec"]["groups"]
    [expr] = [one["expr"] for group in groups for one in group["rules"] if one["alert"] == "SeemlyTargetDown"]
    [jobs] = re.findall(r'job=~"([^"]*)"', expr)
    found = set()
    for monitor in (one["spec"] for one in of_kind(overlay, "ServiceMonitor")):
        ports = {endpoint["port"] for endpoint in monitor["endpoints"]}
        scraped = [
            one for one in of_kind(overlay, "Service") if ports & {port["name"] for port in one["spec"]["ports"]}
        ]
        found |= {service["metadata"]["labels"][monitor["jobLabel"]] for service in scraped}
    assert found == {"gateway", "webhooks", "worker", "lab"}
    assert all(re.fullmatch(jobs, job) for job in found)


@needs_kubectl
def test_traces_leave_only_with_the_component_that_lets_them(tmp_path: Path) -> None:
    assert not [one for one in of_kind("gpu", "NetworkPolicy") if one["metadata"]["name"] == "traces"]
    written = {
        "resources": [os.path.relpath(ROOT / "k8s" / "overlays" / "gpu", tmp_path)],
        "components": [os.path.relpath(ROOT / "k8s" / "components" / "tracing", tmp_path)],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(written))
    rendered = str(tmp_path)
    [policy] = [one["spec"] for one in of_kind(rendered, "NetworkPolicy") if one["metadata"]["name"] == "traces"]
    assert policy["egress"][0]["ports"] == [{"protocol": "TCP", "port": 4318}]
    [settings] = [one["data"] for one in of_kind(rendered, "ConfigMap") if "SEEMLY_POLICY" in one["data"]]
    assert settings["SEEMLY_OTLP_URL"].endswith(":4318")
    wrong = [error for one in of_kind(rendered, "NetworkPolicy") for error in validator_of(one).iter_errors(one)]
    assert wrong == []


@needs_kubectl
def test_a_worker_on_a_gpu_has_one_and_may_run_where_they_are() -> None:
    [pod] = [pod for name, pod in pods("gpu").items() if name.startswith("worker")]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert not [name for name in pods("gpu") if name in ("redis", "store")]


def test_the_rules_of_kubernetes_are_those_of_prometheus() -> None:
    assert (ROOT / "k8s" / "base" / "prometheus-rule.yaml").read_text() == prometheus_rule(), "run `make docs`"
