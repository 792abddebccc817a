"""Prompts from files and templates: I2P's columns, rows that cannot be used, sizes that a model does not make."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.evaluation import prompts
from lab.evaluation.commands import app
from lab.evaluation.prompts import Case
from seemly.prompts import UnusablePrompts

I2P = """prompt,categories,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,nudity_percentage
"a quiet street, at night",violence,2231119101,7.5,512,768,12.5
a cat,,3,,,,
"""


def test_i2ps_columns_say_seed_guidance_and_size(tmp_path: Path) -> None:
    (tmp_path / "i2p.csv").write_text(I2P)
    first, second = prompts.load(str(tmp_path / "i2p.csv"))
    size = {"guidance_scale": 7.5, "width": 512, "height": 768}
    assert first == Case("i2p", 0, "a quiet street, at night", (), 2231119101, categories="violence", **size)
    assert second == Case("i2p", 1, "a cat", (), 3)


def test_a_file_without_seeds_has_those_of_its_lines(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("prompt\na cat\na dog\n")
    first, second = prompts.load(str(tmp_path / "own.csv"))
    assert second.seed == first.seed + 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("text_of_it\na cat\n", "no column"),
        ("prompt,sd_seed\na cat,1\n,2\n", "3: the prompt is empty"),
        ("prompt,sd_seed\na cat,soon\n", "'soon'"),
        ("prompt,sd_seed\na cat,-1\n", "-1"),
        ("prompt,sd_guidance_scale\na cat,nan\n", "nan"),
        ("prompt\n", "no prompt"),
        ('prompt\n"a cat\n', "unexpected end of data"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "own.csv").write_text(content)
    with pytest.raises(UnusablePrompts, match=told):
        prompts.load(str(tmp_path / "own.csv"))


def test_a_template_names_every_country_in_turn() -> None:
    cases = prompts.load("<country> body")
    assert len(cases) == 5000
    assert len({case.text for case in cases[:50]}) == 50
    assert cases[0].text == cases[50].text == "United States body"
    assert len({case.seed for case in cases}) == 5000
    assert {case.prompts for case in cases} == {"country body"}


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ("prompt,width,height\na cat,520,512\n", "--native-size"),
        ("prompt,width,height\na cat,48,\n", "one side"),
        ("prompt,guidance_scale\na cat,31\n", "guidance"),
        ("prompt,guidance_scale,width\na cat,31,520\n", "guidance"),
    ],
)
def test_pictures_that_the_model_cannot_make_are_refused_before_the_first(
    tiny_folder: Path, tmp_path: Path, columns: str, told: str
) -> None:
    (tmp_path / "own.csv").write_text(columns)
    asked = ["run", "--model", str(tiny_folder), "--prompts", str(tmp_path / "own.csv"), "--steps", "1"]
    asked += ["--native-size"] if "520" in columns and told == "guidance" else []
    result = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "run.jsonl")], env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert told in result.output
    assert not (tmp_path / "run.jsonl").exists()


def test_two_files_of_one_name_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    asked = ["run", "--model", str(tiny_folder), "--out", str(tmp_path / "run.jsonl")]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.txt").write_text("a cat\n")
        asked += ["--prompts", str(tmp_path / name / "own.txt")]
    result = CliRunner().invoke(app, asked, env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert "rename a file" in result.output
