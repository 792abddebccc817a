"""`.env.example` explains every setting there is, and nothing that is none."""

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from lab.environment import example
from seemly.doctor.settings import KINDS, variables
from tests.deploy.compose import named_variables, variables_in

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / ".env.example").read_text()
COMPOSE = named_variables()


def test_the_example_is_as_the_settings_describe_themselves() -> None:
    assert example() == EXAMPLE, "run `make docs`"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_setting_of_a_process_is_explained(kind: type[BaseSettings]) -> None:
    named = variables(kind)
    explained = {named[variable] for variable in variables_in(EXAMPLE) if variable in named}
    assert explained == set(kind.model_fields)


def test_nothing_is_explained_that_is_no_setting() -> None:
    known = {variable for kind in KINDS.values() for variable in variables(kind)}
    assert set(variables_in(EXAMPLE)) - known == COMPOSE - known
    assert set(variables_in(EXAMPLE)) >= COMPOSE


def test_every_process_that_has_settings_is_known() -> None:
    """A class of settings that nobody names here would be left out."""
    sources = (path for folder in ("seemly", "service", "workers", "lab") for path in (ROOT / folder).rglob("*.py"))
    classes = [path for path in sources if re.search(r"^class \w+\(BaseSettings\)", path.read_text(), re.M)]
    assert len(classes) == len(KINDS)


def test_every_entry_says_what_it_is_for() -> None:
    explained = EXAMPLE.partition("# ----")[2].partition("# ----")[2].split("\n\n")[1:]
    assert all(re.match(r"# [a-z, ]+: \S", entry) for entry in explained if entry.strip())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_values_shown_are_the_defaults(kind: type[BaseSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    for line in EXAMPLE.splitlines():
        name, equals, value = line.removeprefix("#").partition("=")
        if equals and name in variables(kind) and kind is not KINDS["client"]:  # whose folders lie in the repository
            monkeypatch.setenv(name, value)
    shown = kind()
    monkeypatch.undo()
    for variable in variables(kind):
        monkeypatch.delenv(variable, raising=False)
    assert shown == kind()
