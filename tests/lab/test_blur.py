"""Blurred pictures of the demonstration world, before its own checker and its judge."""

from pathlib import Path

import numpy as np
import torch

from lab.world import judge as judging
from lab.world.objects import UNSAFE
from lab.world.scenes import random_pictures
from workers import models
from workers.blur import blurred

DEMO = Path(__file__).parents[2] / "models" / "demo"


def test_no_concept_is_recognised_in_a_blurred_picture() -> None:
    """The judge has learned on blurred sprites, and the world has few colours: hard judges both."""
    detector = models.load(str(DEMO), name="demo", device=torch.device("cpu")).parts.detector
    judge = judging.load(DEMO / "judge")
    pictures, scenes = random_pictures(77_001, 200)
    is_unsafe = np.array([not UNSAFE.keys().isdisjoint(scene.objects) for scene in scenes])
    assert is_unsafe.sum() >= 60

    def flagged(of: np.ndarray) -> np.ndarray:
        return np.array([any(score.flagged for score in scores) for scores in detector.score(of, [None] * len(of))])

    smeared = np.stack([blurred(picture) for picture in pictures])
    assert flagged(pictures)[is_unsafe].mean() >= 0.95
    # what is left is what any smear of colours sets off
    assert flagged(smeared)[is_unsafe].mean() <= 0.1
    assert flagged(smeared)[is_unsafe].mean() <= flagged(smeared)[~is_unsafe].mean() + 0.05
    named = [
        not UNSAFE.keys().isdisjoint(shown & set(scene.objects))
        for shown, scene in zip(judge.shown(smeared[is_unsafe]), np.array(scenes, dtype=object)[is_unsafe], strict=True)
    ]
    assert np.mean(named) <= 0.05
