"""`python -m lab.environment`: what deployments hold of what stands elsewhere already.

.env.example                    from the settings' own descriptions
k8s/base/prometheus-rule.yaml   from Prometheus' alert rules
"""

import json
from collections import Counter
from pathlib import Path
from textwrap import wrap
from typing import Any

import typer
import yaml  # type: ignore[import-untyped]
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from contract.plan import SafetyPlan
from seemly.doctor.settings import KINDS, variables

HEAD = """\
# Settings of docker-compose.yml and of every process, written by `make docs`. This copies them to .env, with a secret
# in the place of each that docker-compose.yml needs:
#
#   awk '/^[A-Z_]+=$/ {make = "openssl rand -hex 32"; make | getline it; close(make); $0 = $0 it} 1' .env.example >.env
#
# A setting that is commented out has the value it has by default. Each service is told its own, and no other's secrets.

# ---- Needed by docker-compose.yml.

# Passwords of the users of Redis, one for each kind of process; deploy/redis/start.sh tells what each may do.
REDIS_GATEWAY_PASSWORD=
REDIS_WORKER_PASSWORD=
REDIS_LAB_PASSWORD=
REDIS_WEBHOOKS_PASSWORD=
REDIS_COMMANDS_PASSWORD=

# Password of the user admin of Redis, who may change its settings; empty: there is none.
#REDIS_ADMIN_PASSWORD=

# Key and secret of the object store.
STORE_ACCESS_KEY=
STORE_SECRET_KEY=

# Secret under which API keys are kept, and from which signing secrets are derived. With it lost, all keys are.
SEEMLY_PEPPER=

# Password of Grafana's user admin, on port 3000 of this machine.
GRAFANA_PASSWORD=

# Where the gateway is reached from outside of docker compose.
#GATEWAY_PUBLISHED=127.0.0.1:8000

# Where Alertmanager posts alerts, in its own JSON; empty: nowhere, they are seen in Grafana only.
#ALERTS_URL=

# Where the profile `tracing` passes traces on by OTLP over HTTP; with it goes SEEMLY_OTLP_URL=http://collector:4318.
#TRACES_URL=

# For a hub whose model is not for everybody; told to the service `model` alone.
#HF_TOKEN=

# ---- Every setting of the processes named before it. Under docker compose, REDIS_URL, SEEMLY_STORE_URL, SEEMLY_DATA,
# hosts, ports and the paths of models are said there already, and the profiles gpu and lab-gpu serve, unless another is
# named, Stable Diffusion 1.5 as sd15. A store in a bucket takes the provider's own variables
# as well: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, ...
"""
WIDTH = 118
ROOT = Path(__file__).resolve().parent.parent
RULE_HEAD = "# Written by `make docs` from deploy/observability/prometheus/alerts.yaml.\n"
TOLD_ABOVE = {"SEEMLY_PEPPER"}


def settings() -> dict[str, dict[str, FieldInfo]]:
    """Every variable, with the processes that read it. Of several names, the one that most of them take."""
    readers = Counter(name for kind in KINDS.values() for name in variables(kind))
    found: dict[str, dict[str, FieldInfo]] = {}
    for process, kind in KINDS.items():
        for field, info in kind.model_fields.items():
            names = [name for name, of in variables(kind).items() if of == field]
            best = max(names, key=lambda name: (readers[name], -names.index(name)))
            found.setdefault(best, {})[process] = info
    return found


def example() -> str:
    """The whole file."""
    parts = [HEAD]
    parts += [_entry(name, readers) for name, readers in settings().items() if name not in TOLD_ABOVE]
    return "\n".join(parts)


def _entry(name: str, readers: dict[str, FieldInfo]) -> str:
    told = next(info.description for info in readers.values() if info.description)
    lines = wrap(f"{', '.join(readers)}: {told}", WIDTH - 2, break_on_hyphens=False, break_long_words=False)
    return "\n".join([*(f"# {line}" for line in lines), f"#{name}={_shown(next(iter(readers.values())).default)}", ""])


def _shown(default: Any) -> str:
    match default:
        case None | ():
            return ""
        case bool():
            return str(default).lower()
        case SafetyPlan():
            return ",".join(default.methods)
        case tuple():
            return ",".join(f"{part:g}" for part in default)
        case _ if default is PydanticUndefined:
            return ""
    return str(_relative(default)) if isinstance(default, str | Path) else json.dumps(default)


def _relative(default: str | Path) -> str | Path:
    """A folder of this repository by its name within, wherever it lies here."""
    path = Path(default)
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else default


def prometheus_rule() -> str:
    """Prometheus' own rules, as its operator takes them."""
    rules = yaml.safe_load((ROOT / "deploy" / "observability" / "prometheus" / "alerts.yaml").read_text())
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "seemly"},
        "spec": rules,
    }
    return RULE_HEAD + str(yaml.safe_dump(rule, sort_keys=False, width=WIDTH))


def write() -> None:
    """Write both anew."""
    for name, text in ((".env.example", example()), ("k8s/base/prometheus-rule.yaml", prometheus_rule())):
        (ROOT / name).write_text(text)
        typer.echo(f"{name} written")


if __name__ == "__main__":
    typer.run(write)
