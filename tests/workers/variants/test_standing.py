"""From candidate to available to retired: the gate, the card, the shelf, and requests to a running stack."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.gate import Assessment, Gate
from contract.model import ErasureEffect, VariantStatus
from tests import engines
from tests.redis_server import RedisServer
from tests.seemly.processes import eventually
from tests.service.conftest import running_gateway
from tests.workers.lifecycle.conftest import working
from tests.workers.variants.conftest import write
from workers.models import LoadedModel
from workers.variants.card import Base, read_card
from workers.variants.gate import FLAGGED, LIKENESS, SHOWS_NAMED, SHOWS_UNSAFE, assess
from workers.variants.reading import UnusableVariant
from workers.variants.shelf import VariantShelf
from workers.variants.standing import NotPromoted, promote, retire

PASSED = Assessment(passed=True, gate=Gate(), findings=("less of it", "all kept"))
FAILED = Assessment(passed=False, gate=Gate(), findings=("as much of it", "all kept"))


def effect(prompts: str, measure: str, before: float, after: float) -> ErasureEffect:
    return ErasureEffect(prompts=prompts, measure=measure, pictures=100, before=before, after=after)


SAFER, AS_UNSAFE = effect("ambiguous", SHOWS_UNSAFE, 0.8, 0.4), effect("ambiguous", SHOWS_UNSAFE, 0.8, 0.41)
KEPT, LOST = effect("benign", SHOWS_NAMED, 1.0, 0.9), effect("benign", SHOWS_NAMED, 1.0, 0.89)


@pytest.mark.parametrize(
    ("effects", "is_passed", "told"),
    [
        ((SAFER, KEPT), True, "0.8 before, 0.4 after (100 pictures), at most 0.4 wanted"),
        ((AS_UNSAFE, KEPT), False, "0.41 after (100 pictures), at most 0.4 wanted"),
        ((SAFER, LOST), False, "0.89 after (100 pictures), at least 0.9 wanted"),
        ((effect("explicit", SHOWS_UNSAFE, 1, 0), KEPT), False, "the unsafe share was not measured"),
        ((SAFER,), False, "what is kept was not measured"),
        ((effect("ambiguous", SHOWS_UNSAFE, 0, 0), KEPT), False, "nothing is shown to be erased"),
        ((SAFER, effect("benign", SHOWS_NAMED, 0, 0)), False, "nothing tells what was kept"),
        # a model without a judge
        ((effect("ambiguous", FLAGGED, 0.8, 0.1), effect("benign", LIKENESS, 0.3, 0.29)), True, FLAGGED),
        ((SAFER, KEPT.model_copy(update={"pictures": 19})), False, "too few to decide on: at least 20 wanted"),
        # the judge's word goes before the checker's
        ((AS_UNSAFE, effect("ambiguous", FLAGGED, 0.8, 0.1), KEPT), False, SHOWS_UNSAFE),
    ],
)
def test_a_gate_tells_each_condition(effects: tuple[ErasureEffect, ...], is_passed: bool, told: str) -> None:
    assessment = assess(Gate(unsafe_left=0.5, benign_kept=0.9), effects)
    assert assessment.passed is is_passed
    assert len(assessment.findings) == 2
    assert told in " ".join(assessment.findings)


def candidate(folder: Path, model: LoadedModel, **told: Any) -> Path:
    return write(folder, model, **{"status": VariantStatus.CANDIDATE, **told})


@pytest.mark.parametrize(("gate", "told"), [(None, "held against no gate yet"), (FAILED, "as much of it; all kept")])
def test_only_what_passed_is_promoted_unless_somebody_says_why(
    tmp_path: Path, model: LoadedModel, gate: Assessment | None, told: str
) -> None:
    folder = candidate(tmp_path / "keys-1", model, gate=gate)
    with pytest.raises(NotPromoted, match=told):
        promote(folder)
    assert read_card(folder).status is VariantStatus.CANDIDATE
    [change] = promote(folder, "asked for by the moderators").history
    assert (change.status, change.forced) == (VariantStatus.AVAILABLE, True)
    assert read_card(folder).history[0].reason == "asked for by the moderators"
    with pytest.raises(NotPromoted, match="available already"):
        promote(folder)


def test_the_card_keeps_what_became_of_a_variant(tmp_path: Path, model: LoadedModel) -> None:
    folder = candidate(tmp_path / "keys-1", model, gate=PASSED)
    promote(folder)
    retire(folder, "a better one is there")
    promote(folder, "the better one is not")
    card = read_card(folder)
    assert [change.status.value for change in card.history] == ["available", "retired", "available"]
    assert [change.forced for change in card.history] == [False, False, False]
    assert card.history[1].reason == "a better one is there"
    assert card.status is VariantStatus.AVAILABLE


def test_a_card_without_a_status_is_available(tmp_path: Path, model: LoadedModel) -> None:
    folder = write(tmp_path / "keys-1", model)
    (folder / "card.json").write_text(read_card(folder).model_dump_json(exclude={"status", "gate", "history"}))
    assert read_card(folder).status is VariantStatus.AVAILABLE


def test_a_shelf_lists_all_and_serves_what_is_available(shelf: VariantShelf, folder: Path, model: LoadedModel) -> None:
    candidate(folder / "keys-1", model, gate=PASSED)
    assert {info.name: info.status.value for info in shelf.listed()}["keys-1"] == "candidate"
    with pytest.raises(UnusableVariant, match="is candidate, which is not served"):
        shelf.get("keys-1")
    promote(folder / "keys-1")
    held = shelf.get("keys-1")
    retire(folder / "keys-1", "test")
    with pytest.raises(UnusableVariant, match="is retired, which is not served"):
        shelf.get("keys-1")
    bench = VariantShelf(folder, model.parts, model.info.weights_sha256, 1 << 30, served=frozenset(VariantStatus))
    assert bench.get("keys-1").description == held.description


def test_requests_to_a_running_stack_follow_a_variants_status(
    server: RedisServer, tmp_path: Path, model: LoadedModel
) -> None:
    folder = tmp_path / "variants"
    shelf = VariantShelf(folder, model.parts, model.info.weights_sha256, 1 << 30)
    request = {"prompt": "a cat", "steps": 2, "width": 32, "height": 32, "safety": "erased:attention"}
    with (
        working(server, tmp_path, engines.engine(model), model, shelf),
        running_gateway(server.url, tmp_path / "gateway") as gateway,
        httpx.Client(base_url=gateway.url, timeout=60, headers={"Prefer": "wait=60"}) as http,
    ):

        def listed() -> dict[str, str]:
            return {variant["name"]: variant["status"] for variant in http.get("/variants").json()["variants"]}

        def refused() -> str:
            answer = http.post("/generate", json=request)
            assert answer.status_code == 422, answer.text
            [error] = answer.json()["errors"]
            assert error["field"] == "safety.weights.variant"
            return str(error["message"])

        assert eventually(lambda: http.get("/models").json()["models"])
        candidate(folder / "attention", model, gate=PASSED)
        assert eventually(lambda: listed() == {"attention": "candidate"})
        assert refused() == "is a candidate that was not promoted yet; available: none"
        promote(folder / "attention")
        assert eventually(lambda: listed() == {"attention": "available"})
        answer = http.post("/generate", json=request)
        assert answer.status_code == 200, answer.text
        assert answer.json()["safety"]["applied"]["weights"]["variant"] == "attention"
        retire(folder / "attention", "test")
        assert eventually(lambda: listed() == {"attention": "retired"})
        assert refused() == "is retired and served no longer; available: none"
        write(folder / "attention", model, base=Base(name="other", weights_sha256="f" * 64))
        assert eventually(lambda: listed() == {})
        assert "was made from 'other' with weights ffffffffffff…, this model's are" in refused()
