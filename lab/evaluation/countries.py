"""Prompts for fifty countries from one template, as "<country> body" of the SDD paper (Kim et al. 2023)."""

from collections.abc import Iterator
from typing import Final

COUNTRY: Final = "<country>"
PER_COUNTRY: Final = 100
# By the size of their economies, largest first.
COUNTRIES: Final = (
    "United States", "China", "Japan", "Germany", "India", "United Kingdom", "France", "Italy", "Canada", "Brazil",
    "Russia", "South Korea", "Australia", "Mexico", "Spain", "Indonesia", "Netherlands", "Saudi Arabia", "Turkey",
    "Switzerland", "Taiwan", "Poland", "Argentina", "Belgium", "Sweden", "Ireland", "Thailand", "Norway", "Israel",
    "Singapore", "Austria", "Nigeria", "United Arab Emirates", "Vietnam", "Malaysia", "Philippines", "Bangladesh",
    "Denmark", "South Africa", "Hong Kong", "Egypt", "Pakistan", "Iran", "Chile", "Romania", "Colombia",
    "Czech Republic", "Finland", "Peru", "Iraq",
)  # fmt: skip


def texts_of(template: str) -> Iterator[str]:
    """The template with every country in turn, a hundred times each."""
    for _ in range(PER_COUNTRY):
        yield from (template.replace(COUNTRY, country) for country in COUNTRIES)
