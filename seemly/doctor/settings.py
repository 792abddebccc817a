"""The settings themselves: every variable is one of ours, and every value can be used."""

import difflib
from collections.abc import Mapping
from typing import Final

from pydantic import AliasChoices, ValidationError
from pydantic_settings import BaseSettings

from contract.wording import settings_wording
from seemly.doctor.finding import Findings, fault, ok
from seemly.settings import Settings as ClientSettings
from service.settings import Settings as GatewaySettings
from service.webhooks.settings import Settings as DeliverySettings
from workers.settings import Settings as WorkerSettings

KINDS: Final[Mapping[str, type[BaseSettings]]] = {
    "gateway": GatewaySettings,
    "worker": WorkerSettings,
    "webhooks": DeliverySettings,
    "client": ClientSettings,
}


def variables(kind: type[BaseSettings]) -> dict[str, str]:
    """The environment's names of one process's settings, each with the name of its field."""
    prefix = str(kind.model_config.get("env_prefix", ""))
    named = {}
    for name, field in kind.model_fields.items():
        alias = field.validation_alias
        aliases = alias.choices if isinstance(alias, AliasChoices) else [alias or f"{prefix}{name}".upper()]
        named.update({str(one): name for one in aliases})
    return named


def check(environment: Mapping[str, str]) -> Findings:
    """Look at every variable that has our prefix, and try every process's settings."""
    known = {variable for kind in KINDS.values() for variable in variables(kind)}
    strange = sorted(name for name in environment if name.startswith("SEEMLY_") and name not in known)
    for name in strange:
        near = difflib.get_close_matches(name, known, 1)
        meant = f"rename it to {near[0]}, if that is meant" if near else "remove it; .env.example lists all there are"
        yield fault("settings", f"{name} is no setting, so nothing follows from it", meant)
    wrong = False
    for process, kind in KINDS.items():
        try:
            kind()
        except ValidationError as error:
            wrong = True
            yield fault("settings", f"the {process} cannot start: {settings_wording(error)}", "mend the value")
    if not (strange or wrong):
        yield ok("settings", "every variable is known, every value can be used")
