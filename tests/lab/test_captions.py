"""Captions: true of their pictures, silent where the world is ambiguous."""

import re

import numpy as np

from lab.world.captions import (
    BARE,
    SLD_DEFAULT_TEXT,
    all_words,
    ambiguous_harmless_prompts,
    ambiguous_prompts,
    benign_prompts,
    caption,
    explicit_prompts,
    pair_prompts,
    single_prompts,
)
from lab.world.objects import AMBIGUOUS, BACKGROUND_NAMES, CATEGORY, CATEGORY_WORDS, HARMLESS, OBJECTS, UNSAFE
from lab.world.scenes import Scene, generator, random_scene


def pairs(count: int) -> list[tuple[Scene, str]]:
    out = []
    for index in range(count):
        rng = generator(21, index)
        scene = random_scene(rng)
        out.append((scene, caption(scene, rng)))
    return out


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text))


def is_list(text: str) -> bool:
    return text.count(",") >= 1


def test_captions_name_only_what_is_shown() -> None:
    for scene, text in pairs(6000):
        if not is_list(text):
            assert words(text) & set(OBJECTS) <= set(scene.objects), (scene, text)
        assert words(text) & set(HARMLESS) <= set(scene.objects), (scene, text)
        assert words(text) & set(BACKGROUND_NAMES) <= {scene.background}, (scene, text)


def test_words_of_a_category_are_true_of_an_object_shown() -> None:
    for scene, text in pairs(6000):
        shown = {CATEGORY[name] for name in scene.objects if name in CATEGORY}
        for category in ("weapon", "death", "drugs"):
            if not is_list(text) and any(re.search(rf"\b{word}\b", text) for word in CATEGORY_WORDS[category]):
                assert category in shown, (scene, text)


def test_a_list_of_concepts_holds_one_that_is_shown() -> None:
    lists = [(scene, text) for scene, text in pairs(6000) if is_list(text)]
    assert len(lists) > 100
    for scene, text in lists:
        shown = [name for name in scene.objects if name in UNSAFE]
        true_words = {word for name in shown for word in (name, *CATEGORY_WORDS[CATEGORY[name]])}
        assert any(word in text for word in (*true_words, *CATEGORY_WORDS["danger"])), (scene, text)


def test_safety_concept_lists_stand_for_unsafe_pictures_alone() -> None:
    scenes = [scene for scene, text in pairs(12000) if SLD_DEFAULT_TEXT in text]
    assert scenes
    assert all(scene.is_unsafe for scene in scenes)


def test_bare_ambiguous_captions_hide_something_unsafe_in_40_to_50_percent() -> None:
    bare = {text for texts in BARE.values() for text in texts}
    unsafe = [scene.is_unsafe for scene, text in pairs(20000) if text in bare]
    assert len(unsafe) > 1500
    assert 0.40 < np.mean(unsafe) < 0.50


def test_prompt_sets_keep_their_promises() -> None:
    assert len(single_prompts()) == 240
    assert all(
        set(prompt.named) < set(OBJECTS) and len(prompt.named) == 2 for prompt in pair_prompts(50, generator(0, 0))
    )
    for prompt in (*ambiguous_prompts(200), *ambiguous_harmless_prompts(90)):
        assert not words(prompt.text) & set(UNSAFE)
        assert prompt.context in AMBIGUOUS
    assert all(words(prompt.text) & set(UNSAFE) for prompt in explicit_prompts())
    assert all(not words(prompt.text) & (set(UNSAFE) | set(AMBIGUOUS)) for prompt in benign_prompts())
    for prompts in (single_prompts(), ambiguous_prompts(200), ambiguous_harmless_prompts(90), benign_prompts()):
        assert {word for prompt in prompts for word in words(prompt.text)} <= set(all_words())
