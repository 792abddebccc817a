"""Words that no prompt may hold, and what is tried to get them past the rules. The shares are printed (`-s`)."""

import re
import time
import unicodedata
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from confusable_homoglyphs.confusables import confusables_data

from contract.folding import fold
from contract.plan import SafetyPlan
from contract.policy import Policy
from contract.prompt_rules import BlockList, PromptRules
from lab.world.captions import caption
from lab.world.scenes import generator, random_scene
from tests.service import parts

WORDS = (
    *("weapon", "knife", "gun", "rifle", "pistol", "bomb", "grenade", "blood", "gore", "corpse"),
    *("skull", "nude", "naked", "porn", "sex", "rape", "heroin", "cocaine", "meth", "suicide"),
)
LEET = {"0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "i", "8": "b", "9": "g"}
RULES = PromptRules(lists=(BlockList(name="listed", words=WORDS),), leetspeak=LEET)
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u180e\u2063\u061c\ufe0f\u034f\u3164"
MARKS = "".join(map(chr, (*range(0x300, 0x34F), *range(0x483, 0x488), *range(0x20D0, 0x20E0))))
BADGES = (0x1F130, 0x1F150, 0x1F170, 0x1F1E6, 0x24B6, 0x24D0)  # 🄰 🅐 🅰 🇦 Ⓐ ⓐ
TRIES = 4

Mutation = Callable[[str, Random], str]


def between(chars: str) -> Mutation:
    def mutate(word: str, random: Random) -> str:
        at = random.randrange(1, len(word))
        mutant = "".join(letter + random.choice(["", random.choice(chars)]) for letter in word)
        return mutant[:at] + random.choice(chars) + mutant[at:]

    return mutate


def homoglyphs_of(letter: str) -> list[str]:
    """Single characters that Unicode lists as looking like this letter, small or capital."""
    alike = [each["c"] for form in (letter, letter.upper()) for each in confusables_data.get(form, ())]
    return [char for char in alike if len(char) == 1 and not char.isascii() and char != "ſ"]  # which is an s


def homoglyph(word: str, random: Random) -> str:
    at = random.randrange(len(word))
    letters = (random.choice([letter, random.choice(homoglyphs_of(letter))]) for letter in word)
    return "".join(random.choice(homoglyphs_of(word[at])) if i == at else char for i, char in enumerate(letters))


def mathematical(word: str, random: Random) -> str:
    start = random.choice([0x1D400, 0x1D468, 0x1D4D0, 0x1D56C, 0x1D5A0, 0x1D5D4, 0x1D63C, 0x1D670])
    return "".join(chr(start + random.choice([0, 26]) + ord(letter) - ord("a")) for letter in word)


def lettered(word: str, first: int) -> str:
    """In an alphabet of symbols that begins at a code point."""
    return "".join(chr(first + ord(letter) - ord("a")) for letter in word)


def leetspeak(word: str, random: Random) -> str:
    ways = {letter: [char for char, letters in LEET.items() if letter in letters] for letter in set(word)}
    at = random.choice([i for i, letter in enumerate(word) if ways[letter]] or [0])
    letters = [random.choice([letter, *ways[letter]]) for letter in word]
    if ways[word[at]]:
        letters[at] = random.choice(ways[word[at]])
    if not any(map(str.isalpha, letters)):  # a number then, which is no word
        letters[0] = word[0]
    return "".join(letters)


PROMISED: dict[str, Mutation] = {
    "as it is, in capitals, capitalised": lambda word, random: random.choice([word, word.upper(), word.title()]),
    "invisible characters": between(INVISIBLE),
    "full width": lambda word, random: "".join(chr(ord(letter) + 0xFEE0) for letter in word),
    "mathematical letters": mathematical,
    "homoglyphs of Unicode's list": homoglyph,
    "combining marks": between(MARKS),
    "leetspeak as configured": leetspeak,
    "letters apart": lambda word, random: random.choice([" ", ".", "-", "_", " - "[:2]]).join(word),
    "letters far apart": lambda word, random: (random.choice([" ", ".", "\n", "- "]) * random.randint(3, 4)).join(word),
    "squared, circled and regional letters": lambda word, random: lettered(word, random.choice(BADGES)),
    "lookalikes of lookalikes": lambda word, random: word.replace("k", random.choice("κϰкⲕꮶ")),
    "capital I for l": lambda word, random: word.replace("l", "I"),
}
MEASURED_ONLY: dict[str, Mutation] = {
    "a letter repeated": lambda word, random: word[:2] + word[1] * 2 + word[2:],
    "broken in two": lambda word, random: word[:2] + " " + word[2:],
    "two letters exchanged": lambda word, random: word[0] + word[2] + word[1] + word[3:],
    "plural": lambda word, random: word + "s",
}


def caught(mutation: Mutation, name: str) -> tuple[int, int]:
    """How many mutants of all words are found, of how many."""
    random = Random(name)  # noqa: S311
    mutants = [mutation(word, random) for word in WORDS for _ in range(TRIES)]
    return sum(bool(RULES.found_in(f"a picture of a {mutant}, at night")) for mutant in mutants), len(mutants)


def test_mutants_of_promised_classes_are_all_caught() -> None:
    total = 0
    for name, mutation in PROMISED.items():
        found, tried = caught(mutation, name)
        total += tried
        print(f"{name}: {found} of {tried}")  # noqa: T201
        assert found == tried, name
    assert total >= 500
    for name, mutation in MEASURED_ONLY.items():
        found, tried = caught(mutation, name)
        print(f"not promised, {name}: {found} of {tried}")  # noqa: T201


def test_each_homoglyph_of_each_letter_is_caught() -> None:
    mutants = [
        word[:at] + char + word[at + 1 :]
        for word in WORDS
        for at, letter in enumerate(word)
        for char in homoglyphs_of(letter)
    ]
    missed = [mutant for mutant in mutants if not RULES.found_in(mutant)]
    print(f"single homoglyphs: {len(mutants) - len(missed)} of {len(mutants)}")  # noqa: T201
    assert not missed


def harmless_prompts() -> Iterator[str]:
    """Captions of the demo's world, and random words of those that name Unicode's characters, none of them listed."""
    random, listed = Random("harmless"), re.compile(rf"\b(?:{'|'.join(WORDS)})\b")  # noqa: S311
    captions = (caption(random_scene(rng), rng) for rng in (generator(7, index) for index in range(6000)))
    yield from [text for text in captions if not listed.search(text)][:2500]
    named = (unicodedata.name(chr(code), "") for code in range(0x1FFFF))
    words = sorted({word for name in named for word in re.findall(r"[A-Z]{3,}", name)})
    usable = [word.lower() for word in words if word.lower() not in WORDS]
    for _ in range(2500):
        yield f"a {' '.join(random.sample(usable, 4))} in {random.randrange(1000, 9999)}, 35 mm, f/1.4"


def test_harmless_prompts_are_not_refused() -> None:
    prompts = list(harmless_prompts())
    refused = [prompt for prompt in prompts if RULES.found_in(prompt)]
    print(f"refused {len(refused)} of {len(prompts)} harmless prompts")  # noqa: T201
    assert len(prompts) >= 5000
    assert refused == []


@pytest.mark.parametrize(
    "text",
    [
        "Scunthorpe and Essex, Middlesex and Sussex",
        "a gunmetal bassoon, begun by a burgundy gunner",
        "skullcap flowers, bloodhounds, a hot-blooded bombardier from Bombay",
        "the heroine of a grape harvest, drapes and methane, a therapist",
        "room 455 at 3:15, 50 x 70, 5.3 m, $3 and 1 more",
        "plan a b c d, vitamins A, C and E",
        "ein Gewölbe, 東京の夜, ночной порт, λιμάνι τη νύχτα",
        "",
    ],
)
def test_words_within_words_and_numbers_are_harmless(text: str) -> None:
    assert RULES.found_in(text) == ()


def test_phrases_and_words_of_other_scripts_are_found_wherever_they_stand() -> None:
    rules = PromptRules(
        lists=(
            BlockList(name="phrases", words=("school shooting", "Ill Will")),
            BlockList(name="others", words=("оружие",)),
        )
    )
    assert rules.found_in("a SCHOOL -- shoоting") == ("phrases",)
    assert rules.found_in("iII wiII, оружие") == ("phrases", "others")
    assert rules.found_in("schools shooting; school of shooting") == ()
    far = "a quiet harbour, " * 220
    assert rules.found_in(far + "school shooting") == ("phrases",)  # far beyond the tokens that CLIP reads


def test_a_number_is_found_where_that_number_is_listed() -> None:
    numbers = BlockList(name="numbers", words=("1488", "4:20"))
    rules = PromptRules(lists=(numbers, BlockList(name="words", words=("ill",))), leetspeak=LEET)
    for found in ("a flag with 1488", "１４８８", "1 4 8 8", "at 4 20", "at 4.20, at night"):
        assert rules.found_in(found) == ("numbers",), found
    for harmless in ("room 21488", "in 1489", "420 boats", "111 birds", "5 1 4 8 8 6", "4 o'clock, 20 boats"):
        assert rules.found_in(harmless) == (), harmless


def test_what_has_no_letter_is_no_word() -> None:
    with pytest.raises(ValueError, match="holds no letter"):
        BlockList(name="empty", words=("\u200b!",))


def test_the_time_of_a_look_does_not_grow_with_the_list() -> None:
    random = Random("long lists")  # noqa: S311
    words = tuple("".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in range(2000))
    rules = PromptRules(lists=(BlockList(name="long", words=words),), leetspeak=LEET)
    assert rules.found_in(" ".join(words[1999])) == rules.found_in(f"a {words[0]}") == ("long",)
    text = "a b c d e f g h " * 1250
    began = time.process_time()
    assert rules.found_in(text) == ()
    spent = time.process_time() - began
    print(f"{len(text)} characters against {len(words)} words: {spent:.4f} s")  # noqa: T201
    assert spent < 0.2


def test_words_that_begin_with_others_are_found_as_well_as_those() -> None:
    rules = PromptRules(lists=(BlockList(name="a", words=("ab", "abc", "abc d e", *("x" * n for n in range(1, 101)))),))
    assert [bool(rules.found_in(text)) for text in ("ab", "abc", "abcd", "abc d", "x" * 99, "x" * 101)] == [
        *(True, True, False, True, True, False)
    ]
    assert PromptRules(lists=(BlockList(name="a", words=("sass", "ass")),), leetspeak=LEET).found_in("4 5 5, 4 5 s")


def test_folding_keeps_what_looks_like_nothing_else() -> None:
    assert fold("Straße 12 東京 ночь") == "strasse 12 東京 " + fold("ночь")
    assert fold(fold("KЫI |l")) == fold("KЫI |l")


def test_every_text_that_a_picture_may_come_to_show_is_screened() -> None:
    edits = [[{"text": "a KNIFE", "direction": way}] for way in ("add", "remove")]
    added, removed = ({"method": "sega", "concepts": edit} for edit in edits)
    policy = Policy(id="listed", version=1, prompt_rules=RULES)

    def fields(**changes: Any) -> list[str]:
        return [field for field, _ in policy.faults_of_texts(parts.some_job(**changes))]

    def under(guidance: Any, **changes: Any) -> list[str]:
        return fields(plan=SafetyPlan.model_validate({"guidance": guidance}), **changes)

    assert fields() == []
    assert fields(prompt="a knife") == ["prompt"]
    assert under({"method": "negative"}, negative_prompt="a knife") == []
    assert under({"method": "sld"}, negative_prompt="a knife") == ["negative_prompt"]
    assert under(removed) == []
    assert under(added) == ["safety.guidance.concepts.0.text"]
