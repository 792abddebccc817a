"""A policy's thresholds and actions hold for every detector's concepts: those of the real ones, on a real picture."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from contract.filter import Action, ConceptRule, Filter, FilterConcept
from contract.job import Job, Original
from contract.plan import SafetyPlan
from contract.policy import InForce, Policy
from contract.rejudging import rejudged
from contract.result import Picture
from contract.strictness import NO_FLOOR
from contract.verdict import ConceptScore, Verdict
from tests import engines
from tests.workers.lifecycle.client import job
from workers.engine.picture import Outcome
from workers.models import LoadedModel
from workers.results import judge, released
from workers.safety.detectors.choices import DetectorChoice, NudeNetChoice, Q16Choice
from workers.safety.detectors.chosen import panel_of
from workers.safety.detectors.panel import Panel

DETECTORS = ("clip-checker", "clip-concepts", "nudenet", "q16")
OWN = FilterConcept(name="own", text="a cat", threshold=0.9, action=Action.ANNOTATE)
VERDICTS = {Action.ANNOTATE: Verdict.PASSED, Action.REVIEW: Verdict.REVIEW, Action.BLOCK: Verdict.BLOCKED}


@dataclass(frozen=True)
class Seen:
    """A picture that all detectors have looked at."""

    model: LoadedModel
    outcome: Outcome

    def score_of(self, detector: str) -> ConceptScore:
        """What one of them finds the most of."""
        scores = [one for one in self.outcome.scores if one.detector == detector and not one.special_care]
        return max(scores, key=lambda one: one.score)

    def judged(self, in_force: InForce) -> tuple[Picture, Job]:
        """The picture's verdict under a policy, of a request that leaves it all to the policy."""
        own = SafetyPlan(output=Filter(action=Action.ANNOTATE, concepts=(OWN,)))
        wanted = job(width=32, height=32, seeds=(self.outcome.spec.seed,), requested=own, plan=in_force.effective(own))
        return judge(self.outcome, wanted, self.model.info).picture, wanted


@pytest.fixture(scope="module")
def seen(tiny_model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    pytest.importorskip("nudenet")
    file: Path = tmp_path_factory.mktemp("q16") / "q16.safetensors"
    save_file({"prompts": torch.randn(2, 32, generator=torch.Generator().manual_seed(1))}, file)
    choices: list[DetectorChoice] = [NudeNetChoice(name="nudenet"), Q16Choice(name="q16", file=file, threshold=0.99)]
    panel: Panel = panel_of(choices, tiny_model.detector, 30)
    model = tiny_model.judged_by(panel)
    plan = SafetyPlan(output=Filter(concepts=(OWN,)))
    [outcome] = engines.run(engines.engine(model), [engines.spec(steps=1, plan=plan)])
    assert {score.detector for score in outcome.scores} == {*DETECTORS}
    return Seen(model, outcome)


def under(score: ConceptScore, distance: float, action: Action, *, loosens: bool = False) -> InForce:
    """A policy whose rule has its threshold so far under a score, and annotates all else."""
    threshold = round(max(-1, min(1, score.score - distance)), 4)
    rule = ConceptRule(name=score.name, threshold=threshold, action=action, loosens=loosens)
    floor = SafetyPlan(output=Filter(action=Action.ANNOTATE, rules=(rule,)))
    return InForce(Policy(id="rules", version=1, floor=floor), NO_FLOOR)


@pytest.mark.parametrize("action", VERDICTS)
@pytest.mark.parametrize("detector", DETECTORS)
def test_a_rules_threshold_and_action_decide(seen: Seen, detector: str, action: Action) -> None:
    score = seen.score_of(detector)
    picture, wanted = seen.judged(under(score, 0.05, action, loosens=True))
    assert (picture.verdict, picture.action) == (VERDICTS[action], action)
    [reason] = [reason for reason in picture.reasons if f"{score.name!r}" in reason]
    assert f"the detector {detector} scored {score.name!r} at {score.score:.4f}, over its threshold of" in reason
    [held] = [one for one in picture.concepts if (one.detector, one.name) == (detector, score.name)]
    assert held.flagged
    assert held.margin == pytest.approx(0.05, abs=1e-3)
    assert wanted.plan.output is not None
    assert wanted.plan.output.action_on(score.name) is action


@pytest.mark.parametrize("detector", DETECTORS)
def test_over_the_score_nothing_is_found(seen: Seen, detector: str) -> None:
    score = seen.score_of(detector)
    picture, _ = seen.judged(under(score, -0.05, Action.BLOCK, loosens=True))
    [held] = [one for one in picture.concepts if (one.detector, one.name) == (detector, score.name)]
    is_at_the_end = score.score > 0.95  # a threshold is 1 at most, so nothing lies over this score by so much
    assert held.flagged is (is_at_the_end and score.score - held.threshold > 0.0005)
    assert picture.verdict is (Verdict.BLOCKED if held.flagged else Verdict.PASSED)


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_policy_that_is_tightened_holds_at_release_and_when_read_again(seen: Seen, detector: str) -> None:
    score = seen.score_of(detector)
    loose = under(score, -0.05, Action.ANNOTATE, loosens=True)
    _, wanted = seen.judged(loose)
    judged = judge(seen.outcome, wanted, seen.model.info)
    tight = under(score, 0.05, Action.BLOCK)
    now = released(judged, wanted, tight)
    assert (judged.picture.verdict, now.picture.verdict) == (Verdict.PASSED, Verdict.BLOCKED)
    assert (now.pixels, now.withheld) == (None, None)
    again = rejudged(judged.picture, wanted.plan.output, tight.effective(wanted.plan).output)
    assert (again.verdict, again.reasons) == (Verdict.BLOCKED, now.picture.reasons)


def test_what_is_held_is_judged_by_the_policy_of_its_release(seen: Seen) -> None:
    score = seen.score_of(DETECTORS[0])
    _, wanted = seen.judged(under(score, 0.05, Action.REVIEW, loosens=True))
    judged = judge(seen.outcome, wanted, seen.model.info)
    assert judged.picture.verdict is Verdict.REVIEW
    now = released(judged, wanted, under(score, 0.05, Action.BLOCK))
    assert (now.picture.verdict, now.withheld) == (Verdict.BLOCKED, None)
    milder = released(judged, wanted, under(score, -0.05, Action.BLOCK))  # nobody but a person lets it pass
    assert (milder.picture.verdict, milder.withheld is None) == (Verdict.REVIEW, False)
    original = Original(job="0" * 32, attempt=1, weights_sha256=None, verdicts=(Verdict.BLOCKED,), overturned=(0,))
    overturned = wanted.model_copy(update={"original": original})
    seen_first = released(judged, overturned, under(score, 0.05, Action.BLOCK))
    assert (seen_first.picture.verdict, seen_first.withheld is None) == (Verdict.REVIEW, False)


def test_what_goes_on_record_names_every_detector_by_its_hash_and_every_rule(seen: Seen) -> None:
    rule = ConceptRule(name="inappropriate", threshold=0.2, action=Action.REVIEW)
    output = Filter(action=Action.ANNOTATE, concepts=(OWN,), rules=(rule,))
    told = seen.model.parts.detector.describe(output)
    hashes = {info.name: info.sha256 for info in seen.model.info.detectors}
    assert {each["name"]: each["sha256"] for each in told["detectors"]} == {name: hashes[name] for name in DETECTORS}
    assert told["rules"] == [rule.model_dump(mode="json")]


def test_what_no_detector_scores_is_withheld_and_never_passed(seen: Seen) -> None:
    unknown = ConceptRule(name="kittens", threshold=0.5, action=Action.ANNOTATE)
    policy = Policy(id="unknown", version=1, floor=SafetyPlan(output=Filter(rules=(unknown,))))
    picture, _ = seen.judged(InForce(policy, NO_FLOOR))
    assert picture.error is not None
    assert (picture.verdict, picture.error.code) == (Verdict.ERROR, "detector_error")
