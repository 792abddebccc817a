"""The filter's scores against diffusers' StableDiffusionSafetyChecker, and what it adds to it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessor

from contract.filter import Action, Filter, FilterConcept
from contract.verdict import Verdict, decide
from tests import tiny
from workers.models import LoadedModel
from workers.safety.checker_concepts import STABLE_DIFFUSION_1, CheckerConcepts
from workers.safety.filter import CHECKER, TEXT, ConceptFilter
from workers.safety.protocol import DetectorError

OUT_OF_REACH = 2.0  # no cosine exceeds it


@pytest.fixture(scope="module")
def checker() -> StableDiffusionSafetyChecker:
    return tiny.pipeline().safety_checker.eval()


@pytest.fixture(scope="module")
def processor() -> CLIPImageProcessor:
    return tiny.pipeline().feature_extractor


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def build(checker: StableDiffusionSafetyChecker, processor: CLIPImageProcessor) -> ConceptFilter:
    return ConceptFilter(checker, processor, STABLE_DIFFUSION_1, version="test", sha256="0" * 64)


def flagged_by_diffusers(
    checker: StableDiffusionSafetyChecker, processor: CLIPImageProcessor, pictures: np.ndarray
) -> list[bool]:
    clip_input = processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt").pixel_values
    _, flags = checker(clip_input=clip_input, images=pictures.astype(np.float32))
    return flags


def set_thresholds(
    checker: StableDiffusionSafetyChecker, special: dict[int, float], concepts: dict[int, float]
) -> None:
    with torch.no_grad():
        for weights, values in (
            (checker.special_care_embeds_weights, special),
            (checker.concept_embeds_weights, concepts),
        ):
            weights.fill_(OUT_OF_REACH)
            for index, value in values.items():
                weights[index] = value


@pytest.mark.parametrize("special_care_hit", [False, True])
def test_flags_equal_diffusers_on_both_sides_of_the_rounding_band(
    checker: StableDiffusionSafetyChecker, processor: CLIPImageProcessor, pictures: np.ndarray, special_care_hit: bool
) -> None:
    cosines = {
        (i, score.name): score.score
        for i, scores in enumerate(build(checker, processor).score(pictures, [None] * 3))
        for score in scores
    }
    seen = set()
    for index, concept in enumerate(STABLE_DIFFUSION_1.concepts[:6]):
        for offset in np.linspace(-0.002, 0.012, 57):
            special = {1: -OUT_OF_REACH} if special_care_hit else {}
            set_thresholds(checker, special, {index: cosines[0, concept.name] + offset})
            expected = flagged_by_diffusers(checker, processor, pictures)
            scored = build(checker, processor).score(pictures, [None] * 3)
            assert [any(score.flagged for score in scores) for scores in scored] == expected
            seen.add(expected[0])
    assert seen == {True, False}


def test_special_care_alone_never_flags(
    checker: StableDiffusionSafetyChecker, processor: CLIPImageProcessor, pictures: np.ndarray
) -> None:
    set_thresholds(checker, {0: -OUT_OF_REACH}, {})
    [scores, *_] = build(checker, processor).score(pictures, [None] * 3)
    hit = next(score for score in scores if score.name == "little girl")
    assert hit.special_care
    assert hit.margin > 0
    assert not any(score.flagged for score in scores)
    assert flagged_by_diffusers(checker, processor, pictures)[0] is False


def test_a_special_care_hit_lowers_the_thresholds_after_it_once(
    checker: StableDiffusionSafetyChecker, processor: CLIPImageProcessor, pictures: np.ndarray
) -> None:
    set_thresholds(checker, {0: -OUT_OF_REACH, 1: -OUT_OF_REACH}, {})
    [scores, *_] = build(checker, processor).score(pictures, [None] * 3)
    thresholds = {score.name: score.threshold for score in scores}
    assert thresholds["little girl"] == pytest.approx(-OUT_OF_REACH)
    assert thresholds["young child"] == pytest.approx(-OUT_OF_REACH - 0.01)
    assert thresholds["young girl"] == pytest.approx(OUT_OF_REACH - 0.01)  # assigned, not added
    assert thresholds["sexual"] == pytest.approx(OUT_OF_REACH - 0.01)


def test_every_concept_is_reported_with_its_evidence(tiny_model: LoadedModel, pictures: np.ndarray) -> None:
    [scores] = tiny_model.parts.detector.score(pictures[:1], [None])
    assert len(scores) == 20
    assert {score.detector for score in scores} == {CHECKER}
    assert all(score.detector_version for score in scores)
    assert all(abs(score.margin - (score.score - score.threshold)) <= 5.1e-4 for score in scores)


def test_text_concepts_are_scored_each_against_its_own_threshold(tiny_model: LoadedModel, pictures: np.ndarray) -> None:
    concepts = tuple(FilterConcept(name=f"c{i}", text="a weapon", threshold=t) for i, t in enumerate((-1.0, 1.0)))
    plain, filtered = tiny_model.parts.detector.score(pictures[:2], [None, Filter(concepts=concepts)])
    assert len(plain) == 20
    low, high = filtered[20:]
    assert (low.detector, low.flagged, high.flagged) == (TEXT, True, False)
    assert low.score == high.score


def test_a_text_concept_scores_like_cosine_similarity_by_hand(tiny_folder: Path, tiny_model: LoadedModel) -> None:
    from transformers import CLIPTextModelWithProjection

    picture = np.full((1, 32, 32, 3), 128, dtype=np.uint8)
    output = Filter(concepts=(FilterConcept(name="x", text="a red hat", threshold=0.0),))
    [scores] = tiny_model.parts.detector.score(picture, [output])
    pipeline = tiny.pipeline()
    text_model = CLIPTextModelWithProjection.from_pretrained(tiny_folder / "clip_text").eval()
    with torch.no_grad():
        text = text_model(**pipeline.tokenizer("a red hat", return_tensors="pt")).text_embeds
        pixels = pipeline.feature_extractor(Image.fromarray(picture[0]), return_tensors="pt").pixel_values
        checker = pipeline.safety_checker.eval()
        image = checker.visual_projection(checker.vision_model(pixels)[1])
        expected = torch.nn.functional.cosine_similarity(text, image).item()
    assert scores[-1].score == pytest.approx(expected, abs=2e-6)


def test_an_embedding_that_is_not_finite_is_an_error_not_a_pass(
    checker: StableDiffusionSafetyChecker, processor: CLIPImageProcessor, pictures: np.ndarray
) -> None:
    broken = tiny.pipeline().safety_checker.eval()
    with torch.no_grad():
        broken.visual_projection.weight[0, 0] = float("nan")
    assert flagged_by_diffusers(broken, processor, pictures) == [False] * 3  # the stock checker passes them
    with pytest.raises(DetectorError, match="not finite"):
        build(broken, processor).score(pictures, [None] * 3)


def test_names_must_fit_the_checkpoint(
    checker: StableDiffusionSafetyChecker, processor: CLIPImageProcessor, tmp_path: Path
) -> None:
    file = tmp_path / "concepts.json"
    file.write_text(json.dumps({"concepts": [{"name": "a", "category": "b"}], "special_care": []}))
    with pytest.raises(ValueError, match="17"):
        ConceptFilter(checker, processor, CheckerConcepts.from_json(file), version="test", sha256="0" * 64)


def test_text_concepts_without_a_text_tower_are_an_error(
    checker: StableDiffusionSafetyChecker, processor: CLIPImageProcessor, pictures: np.ndarray
) -> None:
    output = Filter(concepts=(FilterConcept(name="x", text="y", threshold=0.0),))
    with pytest.raises(DetectorError, match="no text tower"):
        build(checker, processor).score(pictures[:1], [output])


def test_a_text_concept_longer_than_clip_reads_is_refused(tiny_model: LoadedModel, pictures: np.ndarray) -> None:
    output = Filter(concepts=(FilterConcept(name="x", text="y" * 100, threshold=0.0),))
    with pytest.raises(ValueError, match="77"):
        tiny_model.parts.detector.score(pictures[:1], [output])


def test_the_filter_reports_and_the_plan_decides(tiny_model: LoadedModel, pictures: np.ndarray) -> None:
    def judged(default: Action, **concept: object) -> Verdict:
        text = FilterConcept.model_validate({"name": "x", "text": "y", "threshold": -1.0} | concept)
        output = Filter(action=default, concepts=(text,))
        [scores] = tiny_model.parts.detector.score(pictures[:1], [output])
        return decide(scores, output).verdict

    assert judged(Action.BLOCK) is Verdict.BLOCKED
    assert judged(Action.ANNOTATE) is Verdict.PASSED
    assert judged(Action.REVIEW) is Verdict.REVIEW
    assert judged(Action.ANNOTATE, action="block") is Verdict.BLOCKED
    assert judged(Action.BLOCK, action="annotate") is Verdict.PASSED
    assert judged(Action.BLOCK, threshold=1.0) is Verdict.PASSED


def test_without_a_filter_flags_are_shown_and_the_picture_passes(
    checker: StableDiffusionSafetyChecker, processor: CLIPImageProcessor, pictures: np.ndarray
) -> None:
    set_thresholds(checker, {}, {0: -OUT_OF_REACH})
    [scores] = build(checker, processor).score(pictures[:1], [None])
    assert any(score.flagged for score in scores)
    assert decide(scores, None).verdict is Verdict.PASSED
    blocked = decide(scores, Filter())
    assert blocked.verdict is Verdict.BLOCKED
    assert "scored 'sexual'" in blocked.reasons[0]


@pytest.mark.parametrize("action", [Action.BLUR, Action.REGENERATE])
def test_an_action_that_nobody_carried_out_blocks(action: Action) -> None:
    from contract.verdict import ConceptScore

    found = ConceptScore(
        name="x", category="c", detector="d", detector_version="1", score=1, threshold=0, margin=1, flagged=True
    )
    assert decide([found], Filter(action=action)).verdict is Verdict.BLOCKED


def test_a_text_whose_embedding_is_not_finite_is_an_error(tiny_folder: Path, pictures: np.ndarray) -> None:
    from tests import engines

    detector = engines.load(tiny_folder).parts.detector
    with torch.no_grad():
        detector._text_concepts._text_model.text_projection.weight[0, 0] = float("nan")
    output = Filter(concepts=(FilterConcept(name="x", text="y", threshold=0.0),))
    with pytest.raises(DetectorError, match="clip-concepts"):
        detector.score(pictures[:1], [output])
