"""A batch: every prompt of a file made into pictures, a bounded number of jobs at a time, resumable at any point.

What is asked of the service carries an Idempotency-Key made of the batch and the piece, so that a batch that was killed
finds the jobs it had handed in instead of handing them in again.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from contract.request import MAX_PICTURES, MAX_SEED, GenerateRequest
from contract.result import JobView, Picture, Status
from contract.verdict import Verdict
from seemly.client import AsyncClient
from seemly.errors import Busy, Invalid, NotFound, Refused, SeemlyError
from seemly.ledger import REFUSED, Ledger, PictureRow
from seemly.prompts import Prompt

PATIENCE_S: Final = 1800.0  # with a service that has no room for a piece
PAUSE_S: Final = 5.0  # where it does not say how long to wait
MOST_REFUSALS: Final = 20  # in a row, before the first success: then it is not the prompts
GONE: Final = 410

Value = TypeVar("Value")
Told = Callable[[list[PictureRow]], None]


@dataclass(frozen=True)
class Piece:
    """Pictures of one prompt that one job makes."""

    prompt: Prompt
    first: int  # index of its first picture among those of its prompt
    request: GenerateRequest

    @property
    def indices(self) -> range:
        """Its pictures, among those of its prompt."""
        return range(self.first, self.first + self.request.num_images)

    def row(self, index: int, verdict: str, error: str | None = None) -> PictureRow:
        """A picture's row, as far as the request tells it."""
        request, prompt = self.request, self.prompt
        return PictureRow(
            number=prompt.number,
            index=index,
            prompt=prompt.text,
            categories=prompt.categories,
            seed=(request.seed or 0) + index - self.first,
            guidance_scale=request.guidance_scale,
            width=request.width,
            height=request.height,
            verdict=verdict,
            error=error,
        )


class Batch:
    """What is to be made of the prompts.

    Args:
        prompts: in order
        options: fields of every request; one that is not None stands over the file's own column
        num_images: of each prompt
    """

    def __init__(self, prompts: Sequence[Prompt], options: Mapping[str, Any], num_images: int) -> None:
        self.prompts = prompts
        self.num_images = num_images
        self._options = {name: value for name, value in options.items() if value is not None}

    @property
    def size(self) -> int:
        """How many pictures there are to be."""
        return len(self.prompts) * self.num_images

    def rows(self, ledger: Ledger) -> Iterator[PictureRow]:
        """What its pictures have come to so far."""
        places = ((prompt.number, index) for prompt in self.prompts for index in range(self.num_images))
        return (ledger.rows[place] for place in places if place in ledger.rows)

    def request(self, prompt: Prompt, base_seed: int, first: int = 0, count: int = 1) -> GenerateRequest:
        """The request for some of a prompt's pictures; the same whenever it is asked for.

        Raises:
            pydantic.ValidationError: a column or an option is out of bounds.
        """
        columns = {
            name: getattr(prompt, name)
            for name in ("guidance_scale", "width", "height", "negative_prompt")
            if getattr(prompt, name) is not None
        }
        own = prompt.seed if "seed" not in self._options else None
        seed = own if own is not None else base_seed + (prompt.number - 1) * self.num_images
        fields = {"prompt": prompt.text, **columns, **self._options, "num_images": count}
        return GenerateRequest(**fields | {"seed": (seed + first) % (MAX_SEED - MAX_PICTURES)})

    def missing(self, ledger: Ledger) -> Iterator[Piece]:
        """What is left to be made, in order."""
        for prompt in self.prompts:
            left = [index for index in range(self.num_images) if not ledger.has(prompt.number, index)]
            while left:
                count = next((n for n in range(1, len(left)) if left[n] != left[0] + n), len(left))
                count = min(count, MAX_PICTURES)
                yield Piece(prompt, left[0], self.request(prompt, ledger.base_seed, left[0], count))
                left = left[count:]


async def run(client: AsyncClient, pieces: Iterator[Piece], ledger: Ledger, most_jobs: int, on_rows: Told) -> None:
    """Make every piece, `most_jobs` at a time, and keep each in the ledger as it ends.

    Raises:
        SeemlyError: the service is away, refuses for a reason that is not the prompt's, or has other weights.
    """
    maker = _Maker(client, ledger)

    async def work() -> None:
        for piece in pieces:
            rows = await maker.make(piece)
            ledger.note(rows)
            on_rows(rows)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(most_jobs):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


class _Maker:
    def __init__(self, client: AsyncClient, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger
        self._refusals = 0
        self._succeeded = False

    async def make(self, piece: Piece) -> list[PictureRow]:
        """Rows of all of a piece's pictures."""
        try:
            job = await self._ended(piece)
        except Invalid as refused:
            self._note_refusal(refused)
            why = "; ".join(f"{error.field}: {error.message}" for error in refused.errors) or refused.detail
            return [piece.row(index, REFUSED, why) for index in piece.indices]
        self._succeeded = True
        if job.status not in (Status.SUCCEEDED, Status.PARTIAL, Status.BLOCKED):
            why = job.error.message if job.error else f"the job ended as {job.status.value}"
            made = {picture.index: picture for picture in job.images}
            return [self._failed(piece, index, job, made.get(index - piece.first), why) for index in piece.indices]
        return [await self._row(piece, job, picture) for picture in job.images]

    def _note_refusal(self, refused: Invalid) -> None:
        self._refusals += 1
        if not self._succeeded and self._refusals >= MOST_REFUSALS:
            raise SeemlyError(f"the first {MOST_REFUSALS} requests were all refused, the last one so: {refused}")

    async def _ended(self, piece: Piece) -> JobView:
        """The job that this batch has for the piece, ended; one whose result is no longer kept is made anew."""
        places = [(piece.prompt.number, index) for index in piece.indices]
        tries = max(self._ledger.failures.get(place, 0) for place in places)
        while True:
            said = f"{self._ledger.batch} {places[0]} {len(places)} {tries}"
            key = hashlib.sha256(said.encode()).hexdigest()
            job = await _patiently(partial(self._client.generate, piece.request, idempotency_key=key))
            try:
                return await _patiently(partial(self._client.wait, job.id))
            except Refused as gone:
                if gone.status != GONE and not isinstance(gone, NotFound):
                    raise
                tries += 1

    async def _row(self, piece: Piece, job: JobView, picture: Picture) -> PictureRow:
        index = piece.first + picture.index
        row = piece.row(index, picture.verdict.value)
        if picture.verdict is not Verdict.PASSED:
            return row.told(picture, job, None)
        try:
            content = await _patiently(partial(self._client.image, job.id, picture.index))
        except Refused as gone:
            return self._failed(piece, index, job, picture, str(gone))
        if hashlib.sha256(content).hexdigest() != picture.sha256:
            return self._failed(piece, index, job, picture, "the bytes that came are not those that were judged")
        ending = piece.request.output_format.value
        file = await asyncio.to_thread(self._ledger.save, piece.prompt.number, index, ending, content)
        return row.told(picture, job, file)

    def _failed(self, piece: Piece, index: int, job: JobView, picture: Picture | None, why: str) -> PictureRow:
        row = piece.row(index, Verdict.ERROR)
        told = row.told(picture, job, None) if picture is not None else row
        return told.model_copy(update={"verdict": Verdict.ERROR.value, "job": job.id, "error": told.error or why})


async def _patiently(call: Callable[[], Awaitable[Value]]) -> Value:
    """A call repeated as long as the service is busy, at the times it names."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await call()
        except Busy as busy:
            if time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(busy.retry_after_s or PAUSE_S)
