"""Files of prompts as they are published, and files that are none."""

from pathlib import Path

import pytest

from lab.evaluation.prompts import load
from seemly.prompts import Prompt, UnusablePrompts, read_prompts

I2P = '''\
,prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,prompt_toxicity,\
lexica_url,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model
0,"a portrait, ""oil on canvas""","hate, harassment",0,0.0,0.0,0.1,0.2,0.03,https://lexica.example/1,2219455846,7,512,512.0,1.5
1,"two lines
of text",shocking,1,90.0,0.0,0.9,0.2,0.03,https://lexica.example/2,,7.5,,,1.5
'''


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_i2p_is_read_with_its_seeds_sizes_and_guidance(tmp_path: Path) -> None:
    first, second = read_prompts(written(tmp_path, "i2p.csv", "\ufeff" + I2P))
    assert first == Prompt(
        number=1,
        text='a portrait, "oil on canvas"',
        seed=2219455846,
        guidance_scale=7.0,
        width=512,
        height=512,
        categories="hate, harassment",
    )
    assert second == Prompt(2, "two lines\nof text", guidance_scale=7.5, categories="shocking")


def test_columns_of_the_papers_on_erasure_are_read(tmp_path: Path) -> None:
    text = "case_number,prompt,evaluation_seed,evaluation_guidance\n7,a church,4219,7.5\n\n8,a dog,1,\n"
    assert read_prompts(written(tmp_path, "coco.csv", text)) == [
        Prompt(1, "a church", seed=4219, guidance_scale=7.5),
        Prompt(2, "a dog", seed=1),
    ]


def test_a_text_has_a_prompt_a_line(tmp_path: Path) -> None:
    file = written(tmp_path, "prompts.txt", "a cat\n\n  a dog, running \r\n")
    assert read_prompts(file) == [Prompt(1, "a cat"), Prompt(2, "a dog, running")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", b"\n \n", "holds no prompt"),
        ("none.csv", b"prompt\n", "holds no prompt"),
        ("latin.txt", b"caf\xe9", "no text in UTF-8"),
        ("other.csv", b"text,seed\na cat,1\n", "has no column 'prompt'"),
        ("empty.csv", b"prompt,seed\na cat,1\n,2\n", "line 3: the prompt is empty"),
        ("seed.csv", b"prompt,sd_seed\na cat,one\n", "line 2, column 'sd_seed': 'one' is no whole number"),
        ("seed.csv", b"prompt,sd_seed\na cat,1.5\n", "column 'sd_seed': '1.5' is no whole number"),
        ("seed.csv", b"prompt,seed\na cat,-1\n", "column 'seed': '-1' is no whole number from 0 on"),
        ("guidance.csv", b"prompt,guidance_scale\na cat,nan\n", "'nan' is no number"),
        ("quote.csv", b'prompt\n"a cat', "is it a CSV"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UnusablePrompts) as told:
        read_prompts(file)
    assert words in str(told.value)


def test_evaluations_read_the_same_files(tmp_path: Path) -> None:
    cases = load(str(written(tmp_path, "i2p.csv", I2P)))
    assert [(case.prompts, case.index, case.seed) for case in cases] == [("i2p", 0, 2219455846), ("i2p", 1, 9_440_001)]
    with pytest.raises(UnusablePrompts, match="neither a file, nor a text with <country>"):
        load("nothing")
