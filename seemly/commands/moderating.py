"""The command that has files judged."""

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seemly.commands.asking import ApiKey, AsJson, Url, connected, read_settings, request_of
from seemly.commands.terminal import WITHHELD, told, write_json
from seemly.errors import FieldError, SeemlyError, Unusable

if TYPE_CHECKING:
    from contract.moderation import Moderation

AT_ONCE = 4  # files in one request


def moderate(
    files: Annotated[list[Path], typer.Argument(help="PNG, JPEG and WebP files.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="Whose workers judge; the service's default when left out.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Have pictures judged as those made here are. Exit code 0: all passed; 3: some did not; 1: it failed."""
    with told(as_json) as console:
        from contract.moderation import ModerateRequest
        from seemly.display import moderation_table

        if missing := [file for file in files if not file.is_file()]:
            raise Unusable(FieldError("FILE", f"there is no file {missing[0]}"))
        settings = read_settings(url, api_key)
        judged: list[tuple[Sequence[Path], Moderation]] = []
        with connected(settings, console) as client:
            for some in _grouped(files):
                images = tuple(b64encode(file.read_bytes()).decode() for file in some)
                judged.append((some, client.moderate(request_of(ModerateRequest, images=images, model=model))))
        if as_json:
            told_files = [
                {"file": str(file)} | picture.model_dump(mode="json")
                for some, moderation in judged
                for file, picture in zip(some, moderation.images, strict=True)
            ]
            write_json({"flagged": any(moderation.flagged for _, moderation in judged), "files": told_files})
        else:
            console.print(moderation_table(judged))
        _leave_as([moderation for _, moderation in judged])


def _grouped(files: Sequence[Path]) -> list[Sequence[Path]]:
    return [files[i : i + AT_ONCE] for i in range(0, len(files), AT_ONCE)]


def _leave_as(judged: "Sequence[Moderation]") -> None:
    from contract.verdict import Verdict

    pictures = [picture for moderation in judged for picture in moderation.images]
    if unjudged := [picture for picture in pictures if picture.verdict is Verdict.ERROR]:
        error = unjudged[0].error
        raise SeemlyError(f"{len(unjudged)} files could not be judged{f': {error.message}' if error else ''}")
    if any(moderation.flagged for moderation in judged):
        raise typer.Exit(WITHHELD)
