"""docker-compose.yml as data, filled in as compose does it from .env."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def env(secret: Callable[[str], str]) -> dict[str, str]:
    """.env as a deployment makes it: what stands empty in the example gets a secret."""
    return {
        name: value or secret(name) for name, value in re.findall(r"^([A-Z_0-9]+)=(.*)$", EXAMPLE.read_text(), re.M)
    }


def filled(value: Any, variables: Mapping[str, str]) -> Any:
    """A value with its variables in it, however deep they lie."""
    if isinstance(value, Mapping):
        return {key: filled(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, variables) for one in value]
    if not isinstance(value, str):
        return value
    with_defaults = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda it: variables.get(it[1]) or it[2], value)
    return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda it: variables[it[1]], with_defaults)


def environment(name: str, variables: Mapping[str, str]) -> dict[str, str]:
    """What a service is told. A name without a value is passed on, where .env has it."""
    told = SERVICES[name].get("environment", {})
    own = {key: filled(str(value), variables) for key, value in told.items() if value is not None}
    return own | {key: variables[key] for key, value in told.items() if value is None and key in variables}


def named_variables() -> set[str]:
    """Everything that the file takes from .env."""
    passed_on = {key for one in SERVICES.values() for key, value in one.get("environment", {}).items() if value is None}
    return passed_on | set(re.findall(r"\$\{([A-Z_0-9]+)[:}]", (ROOT / "docker-compose.yml").read_text()))


def variables_in(text: str) -> Iterator[str]:
    """The variables that .env.example, or another such file, explains or sets."""
    for line in text.splitlines():
        name, equals, _ = line.removeprefix("#").partition("=")
        if equals and name.isupper() and " " not in name:
            yield name
