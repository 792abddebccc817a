"""`seemly evaluate report` and `comparison`: what a run came to, for people and for programs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Files = Annotated[list[Path], typer.Argument(help="Files of results, of one model and one setting.")]


def report(
    results: Files,
    out: Annotated[
        Path, typer.Option(help="Folder for pictures.csv, pictures.parquet, report.md, report.html.")
    ] = Path("data/report"),
    grid: Annotated[int, typer.Option(min=0, help="Prompts of each set whose pictures the page shows.")] = 24,
) -> None:
    """Write every picture's scores, a table with 95 % intervals, and a page with pictures, unsafe ones blurred."""
    from lab.evaluation.manifest import manifest_of, pictures_of
    from lab.evaluation.page import page
    from lab.evaluation.report import Report

    try:
        told = Report.of(results)
        out.mkdir(parents=True, exist_ok=True)
        told.write_csv(out / "pictures.csv")
        has_parquet = told.write_parquet(out / "pictures.parquet")
        (out / "report.md").write_text(told.markdown())
        folders = [pictures_of(file) for file in results if pictures_of(file).is_dir()]
        (out / "report.html").write_text(page(told, folders, grid))
        files = [file for file in results if manifest_of(file).exists()]
        for file, manifest in zip(files, told.manifests, strict=True):
            manifest.write(out / manifest_of(file).name)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    console = Console(stderr=True)
    console.print(f"{len(told.pictures)} pictures in {out}")
    if not has_parquet:
        console.print('no Parquet: it needs pyarrow, pip install -e ".[evaluation]"', markup=False)
    if not folders:
        console.print("no pictures were kept, so the page shows none: run with --keep-pictures")


def comparison(
    weapons: Annotated[
        Path | None, typer.Option(help="Results of `run --preset weapons`. Default: the figures as they are.")
    ] = None,
    all_concepts: Annotated[Path | None, typer.Option("--all", help="Results of `run --preset all`.")] = None,
    figures: Annotated[Path, typer.Option(help="File of the tables' figures.")] = Path("docs/evaluation.json"),
    file: Annotated[Path, typer.Option(help="The document; begun when it is not there.")] = Path("docs/evaluation.md"),
) -> None:
    """Write the two tables in the shape of the SDD paper's, from results or from the figures kept of them."""
    from lab.evaluation.comparison import FEATURES, TABLES, Comparison, table_of
    from lab.evaluation.comparison_document import skeleton, written_into
    from lab.evaluation.report import Report

    try:
        kept = Comparison.model_validate_json(figures.read_bytes()) if figures.exists() else Comparison(tables={})
        tables = dict(kept.tables)
        for name, results in (("weapons", weapons), ("all", all_concepts)):
            if results is not None:
                told = Report.of([results])
                tables[name] = table_of(
                    TABLES[name], told.settings, told.variants, told.pictures, told.references.get(FEATURES)
                )
        if not tables:
            raise typer.BadParameter(f"there are no figures in {figures}; name results with --weapons and --all")
        measured = Comparison(tables=tables)
        before = file.read_text() if file.exists() else skeleton()
        after = written_into(before, measured)
        figures.write_text(measured.model_dump_json(indent=1, exclude_none=True) + "\n")
        file.write_text(after)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    Console(stderr=True).print(f"wrote {file} and {figures}")
