"""Texts of `POST /moderate` that are held against concepts: a job for a worker, which has the text tower."""

from pydantic import Field

from contract import keys
from contract.job import AnyJob
from contract.prompt_concepts import TextScore
from contract.result import Ended

MAX_CHARACTERS = 20_000  # of all texts together; a tower on a CPU reads them in seconds
CHARACTER_COST = 64  # pixel-steps of the demo model's UNet, in whose time its tower reads one


class ReadingJob(AnyJob):
    """Texts, by their SHA-256, and what each of them is held against. They lie where uploads do, and as long."""

    kind = keys.READINGS

    texts: tuple[str, ...]
    concepts: tuple[str, ...]
    characters: int = Field(0, ge=0, description="Of all texts.")

    @property
    def cost(self) -> int:
        """As of pictures: else whoever has texts scored would come before everyone's pictures."""
        return max(1, CHARACTER_COST * self.characters)

    @property
    def function(self) -> str:
        """What its worker's table calls it."""
        return keys.READ


class ReadingResult(Ended):
    """Every text's score for every concept; the field of text i is `field_of(i)`."""

    texts: tuple[TextScore, ...] = ()


def field_of(index: int) -> str:
    """Where a text of a moderation stands."""
    return f"texts.{index}"
