"""`seemly erase`: make a variant of a model in which concepts are erased from the weights."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console

from contract.model import VariantStatus
from lab.erasure.standing_commands import check_name

app = typer.Typer(help="Erase concepts from a model's weights.", add_completion=False)


@app.command()
def erase(
    method: Annotated[str, typer.Option(help="esd-x, esd-x-strict, esd-u, sdd or uce.")],
    concepts: Annotated[
        str, typer.Option(help='What to erase, as in "knife, sword"; a text with a comma goes in quotes.')
    ],
    out: Annotated[Path, typer.Option(help="Folder of the variant, as in models/variants/NAME.")],
    model: Annotated[str, typer.Option(help="Folder or hub id of the model to erase from.")] = "models/demo",
    iterations: Annotated[int | None, typer.Option(help="Default: ESD 1000, SDD 1500.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: 1e-5, which suits SD 1.x.")] = None,
    batch: Annotated[int | None, typer.Option(help="Noises per iteration. Default: 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: 0.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 (default), bfloat16 or float16.")] = None,
    gradient_checkpointing: Annotated[bool | None, typer.Option(help="Less memory for more time.")] = None,
    erase_scale: Annotated[float | None, typer.Option(help="ESD's η. Default: 1.")] = None,
    kv_only: Annotated[bool | None, typer.Option(help="SDD: train attn2.to_k and attn2.to_v only.")] = None,
    warmup_iterations: Annotated[int | None, typer.Option(help="SDD. Default: 500.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="SDD. Default: 0.01.")] = None,
    average_decay: Annotated[float | None, typer.Option(help="SDD, of the teacher. Default: 0.999.")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="SDD, of the gradient. Default: 1.")] = None,
    sampling_steps: Annotated[int | None, typer.Option(help="DDIM steps while training. Default: 50.")] = None,
    sampling_guidance: Annotated[float | None, typer.Option(help="While training. Default: 3.")] = None,
    preserved: Annotated[str | None, typer.Option(help='UCE: what to keep as it is, as in "cat, dog".')] = None,
    guide: Annotated[str | None, typer.Option(help="UCE: what the concepts become. Default: the empty prompt.")] = None,
    regularisation: Annotated[float | None, typer.Option(help="UCE's λ. Default: 0.5.")] = None,
    store: Annotated[
        Literal["float16", "bfloat16", "float32"], typer.Option(help="How the variant is stored.")
    ] = "float16",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="What computes.")] = "auto",
    work: Annotated[
        Path | None,
        typer.Option(help="Checkpoints and previews. Default: data/erasure/NAME; the same command resumes."),
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Iterations.")] = 100,
    preview_every: Annotated[int, typer.Option(min=0, help="Iterations between preview sheets; 0: none.")] = 500,
    limit_s: Annotated[float | None, typer.Option(min=0, help="End this run after so long; it can be resumed.")] = None,
    chosen_by: Annotated[str, typer.Option(help="For the card: how the hyper-parameters were chosen.")] = "",
    licence: Annotated[str, typer.Option(help="For the card.")] = "as the base model's",
    candidate: Annotated[
        bool, typer.Option("--candidate", help="Not to be served before: seemly variants promote.")
    ] = False,
) -> None:
    """Erase concepts from a model's weights. Stop it at will: the same command resumes."""
    given = {
        "iterations": iterations,
        "learning_rate": learning_rate,
        "batch": batch,
        "seed": seed,
        "precision": precision,
        "gradient_checkpointing": gradient_checkpointing,
        "erase_scale": erase_scale,
        "kv_only": kv_only,
        "warmup_iterations": warmup_iterations,
        "weight_decay": weight_decay,
        "average_decay": average_decay,
        "clip_norm": clip_norm,
        "sampling_steps": sampling_steps,
        "sampling_guidance": sampling_guidance,
        "preserved": _texts(preserved, "--preserved") if preserved is not None else None,
        "guide": guide,
        "regularisation": regularisation,
    }
    recipe = _recipe(method, {"concepts": _texts(concepts, "--concepts")} | _given(given))
    _check_out(out)

    import torch

    from lab.erasure.erase import Keeping
    from lab.erasure.erase import erase as make
    from lab.erasure.original import Original, UnusableConcept
    from lab.erasure.recipes import command_for
    from lab.erasure.training import Diverged, OtherTraining, alone_in
    from workers.checkpoint import UnusableModel

    console = Console(stderr=True)
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("torch finds no GPU here; leave it out or say cpu", param_hint="--device")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    keeping = Keeping(
        work=work or Path("data/erasure") / out.name,
        checkpoint_every=checkpoint_every,
        preview_every=preview_every,
        limit_s=limit_s,
        dtype=getattr(torch, store),
    )
    told: dict[str, Any] = {
        "command": command_for(recipe, model, str(out), store),
        "chosen_by": chosen_by,
        "licence": licence,
        "status": VariantStatus.CANDIDATE if candidate else VariantStatus.AVAILABLE,
    }
    try:
        with nullcontext() if recipe.method == "uce" else alone_in(keeping.work):
            card = make(Original.open(model, chosen), recipe, out, keeping, console, **told)
    except UnusableModel as error:
        raise typer.BadParameter(str(error), param_hint="--model") from None
    except UnusableConcept as error:
        preserved_texts = getattr(recipe, "preserved", ())
        option = "--preserved" if error.text in preserved_texts else "--concepts"
        option = "--guide" if guide is not None and error.text == guide else option
        raise typer.BadParameter(str(error), param_hint=option) from None
    except OtherTraining as error:
        raise typer.BadParameter(str(error), param_hint="--work") from None
    except (Diverged, ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(1) from None
    if card is None:
        console.print(f"ended after {limit_s:g} s; the same command goes on from {keeping.work}")
        return
    console.print(f"wrote {out}: {card.kind.value}, {len(card.tensors)} tensors changed")


def _texts(commas: str, option: str) -> tuple[str, ...]:
    """ "knife, sword" → both, none of them empty."""
    from lab.erasure.recipes import texts_from

    try:
        texts = texts_from(commas)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    if not texts or not all(texts):
        raise typer.BadParameter(
            'a concept is empty; write texts with commas between, as in "knife, sword"', param_hint=option
        )
    if repeated := sorted({text for text in texts if texts.count(text) > 1}):
        raise typer.BadParameter(f"{repeated[0]!r} is named twice", param_hint=option)
    return texts


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _recipe(method: str, options: dict[str, Any]) -> Any:
    from lab.erasure.recipes import recipe_from

    try:
        return recipe_from(method, options)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "union_tag_invalid":
            raise typer.BadParameter(
                f"{method!r} is no method; choose esd-x, esd-x-strict, esd-u, sdd or uce", param_hint="--method"
            ) from None
        option = "--" + str(first["loc"][1]).replace("_", "-") if len(first["loc"]) > 1 else "--concepts"
        message = f"{method} has no such option" if first["type"] == "extra_forbidden" else first["msg"]
        raise typer.BadParameter(message.removeprefix("Value error, "), param_hint=option) from None


def _check_out(out: Path) -> None:
    """Told before anything runs for nothing."""
    check_name(out.name, "--out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise typer.BadParameter(f"{out} is there already: remove it or name another folder", param_hint="--out")


if __name__ == "__main__":
    app()
