"""`python -m lab.reference`: docs/api.md, written from the OpenAPI document."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from service.app import create_app
from service.description import operations_of
from service.problems import Refusal
from service.settings import Settings

HEAD = """# HTTP interface

Written by `make docs` from the service's own description, `GET /openapi.json`; a test fails when the two differ.
"""
_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "minLength": "≥ {}",
    "maxLength": "≤ {} characters",
    "minItems": "≥ {}",
    "maxItems": "≤ {} entries",
    "pattern": "like `{}`",
}

Described = dict[str, Any]


def document() -> Described:
    """The OpenAPI document, of a gateway that is connected to nothing."""
    return create_app(Settings(redis_url="redis://nowhere")).openapi()


def reference_of(described: Described) -> str:
    """An OpenAPI document as Markdown."""
    parts = [HEAD, described["info"]["description"].strip(), "", *_table_of_routes(described)]
    for tag in dict.fromkeys(operation["tags"][0] for _, _, operation in operations_of(described)):
        parts += ["", f"## {tag.capitalize()}"]
        for path, method, operation in operations_of(described):
            if operation["tags"][0] == tag:
                parts += _operation(path, method, operation)
    parts += ["", "## Errors", "", *_table_of_errors(), "", "## Bodies"]
    for name, schema in sorted(described["components"]["schemas"].items()):
        parts += _schema(name, schema)
    return "\n".join(parts) + "\n"


def _table(titles: str, rows: Iterable[Iterable[str]]) -> Iterator[str]:
    names = titles.split(" | ")
    yield f"| {titles} |"
    yield "|" + "---|" * len(names)
    for row in rows:
        yield "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |"


def _table_of_routes(described: Described) -> Iterator[str]:
    rows = (
        (f"[`{method.upper()} {path}`](#{operation['operationId']})", operation["summary"], _scope(operation))
        for path, method, operation in operations_of(described)
    )
    return _table("route | does | scope of the key", rows)


def _scope(operation: Described) -> str:
    if "security" not in operation:
        return "none, nor a key"
    ways = [
        ", ".join(f"`{scope}`" for scope in scopes) or "any" if scheme == "ApiKey" else f"none with a {scheme}"
        for way in operation["security"]
        for scheme, scopes in way.items()
    ]
    return " or ".join(ways)


def _operation(path: str, method: str, operation: Described) -> Iterator[str]:
    yield from ("", f'<a id="{operation["operationId"]}"></a>', f"### `{method.upper()} {path}`", "")
    yield operation["description"]
    if parameters := operation.get("parameters"):
        rows = (
            (f"`{one['name']}`", one["in"], _type(one["schema"]), _default(one["schema"], one["required"]), _told(one))
            for one in parameters
        )
        yield from ("", *_table("parameter | in | type | default | meaning", rows))
    if body := operation.get("requestBody"):
        content = body["content"]["application/json"]
        yield from ("", f"The body is a {_type(content['schema'])}.")
        for example in content.get("examples", {}).values():
            yield from ("", f"{example['summary']}:", *_json(example["value"]))
    yield from (
        "",
        *_table("answer | is | body | headers", map(_answer, *zip(*operation["responses"].items(), strict=True))),
    )
    links = {name for answer in operation["responses"].values() for name in answer.get("links", {})}
    if links:
        yield from ("", f"Leads to: {', '.join(f'[`{name}`](#{name})' for name in sorted(links - {'next_page'}))}.")


def _answer(status: str, answer: Described) -> tuple[str, str, str, str]:
    bodies: list[str] = []
    codes: list[str] = []
    for media_type, content in answer.get("content", {}).items():
        bodies.append(f"`{media_type}` {_type(content['schema'])}".removesuffix(" string").removesuffix(" object"))
        codes += content.get("examples", {}) if status >= "4" else ()
    told = ", ".join(f"`{code}`" for code in codes) or answer["description"]
    return f"`{status}`", told, ", ".join(bodies), ", ".join(f"`{name}`" for name in answer.get("headers", ()))


def _table_of_errors() -> Iterator[str]:
    known = sorted(refusals(), key=lambda one: (one.status, one.code))
    rows = ((f"`{one.code}`", str(one.status), (one.__doc__ or "").partition("\n")[0]) for one in known)
    return _table("code | status | when", rows)


def refusals(kind: type[Refusal] = Refusal) -> Iterator[type[Refusal]]:
    """Everything that the gateway refuses with a code of its own."""
    for one in kind.__subclasses__():
        if not one.__subclasses__():
            yield one
        yield from refusals(one)


def _schema(name: str, schema: Described) -> Iterator[str]:
    yield from ("", f"### {name}", "")
    yield schema.get("description", "")
    if properties := schema.get("properties"):
        required = schema.get("required", ())
        rows = (
            (f"`{field}`", _type(one), _default(one, field in required), _told(one))
            for field, one in properties.items()
        )
        yield from ("", *_table("field | type | default | meaning", rows))
    elif "enum" in schema:
        yield from ("", f"One of {_type(schema)}.")
    for example in schema.get("examples", ()):
        yield from _json(example)


def _type(schema: Described) -> str:
    for combined in ("anyOf", "oneOf"):
        if combined in schema:
            return " or ".join(dict.fromkeys(map(_type, schema[combined])))
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    name = schema.get("type", "any")
    if name == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        name = f"list of {', '.join(map(_type, items))}"
    elif name == "object" and "additionalProperties" in schema and schema["additionalProperties"] is not True:
        name = f"object of {_type(schema['additionalProperties'])}"
    bounds = [told.format(_number(schema[bound])) for bound, told in _BOUNDS.items() if bound in schema]
    return f"{name} ({', '.join(bounds)})" if bounds else name


def _number(bound: Any) -> Any:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _default(schema: Described, is_required: bool) -> str:
    if is_required:
        return "required"
    return f"`{json.dumps(schema['default'], ensure_ascii=False)}`" if "default" in schema else "`null`"


def _told(described: Described) -> str:
    return str(described.get("description", ""))


def _json(value: Any) -> Iterator[str]:
    yield from ("", "```json", json.dumps(value, ensure_ascii=False, indent=1), "```")


def write(file: Annotated[Path, typer.Argument(help="Where the reference lies.")] = Path("docs/api.md")) -> None:
    """Write the reference of the HTTP interface anew."""
    reference = reference_of(document())
    is_new = not file.exists() or file.read_text() != reference
    file.write_text(reference)
    typer.echo(f"{file} {'rewritten' if is_new else 'was up to date'}")


if __name__ == "__main__":
    typer.run(write)
