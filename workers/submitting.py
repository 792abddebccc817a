"""From a started attempt at a job for pictures into the engine, with the erased weights or uploads it needs."""

import time
from dataclasses import dataclass

from pydantic import ValidationError

from contract.job import Job
from workers.beginning import Beginning
from workers.delivery import JobInFlight, PictureEngine
from workers.ending import Ending
from workers.engine.picture import PictureSpec
from workers.engine.weights import ErasedWeights
from workers.lifecycle import RqWorker, Ticket
from workers.metrics import mode_of
from workers.progress import ProgressBoard
from workers.records import Started
from workers.results import failed
from workers.shift import Shift
from workers.slots import Slots
from workers.uploads import UploadGone, Uploads
from workers.variants.reading import UnusableVariant
from workers.variants.shelf import NoRoom, VariantShelf

LOOKS_WHEN_ALONE = 10  # for memory: a job's is free a moment after it has left


@dataclass(frozen=True)
class Submitting:
    """Gives jobs of POST /generate, /compare and /moderate to the engine, or ends them at once where there is a reason
    to. They are the same to run: the job itself tells its pictures' plans, or its uploads."""

    beginning: Beginning
    ending: Ending
    rq: RqWorker
    uploads: Uploads
    variants: VariantShelf | None
    engine: PictureEngine
    progress: ProgressBoard
    slots: Slots
    shift: Shift

    def submit(self, ticket: Ticket, started: Started) -> bool:
        """Whether the job is in flight from now on."""
        try:
            job = Job.model_validate_json(started.job_json)
        except ValidationError as error:
            places = ", ".join(sorted({".".join(map(str, one["loc"])) or "the whole" for one in error.errors()}))
            result = failed("invalid_job", f"the job's record is invalid at: {places}")
            self.ending.end(ticket, started.attempt, result)
            return False
        outlook = self.beginning.of(job, ticket.job_id, started)
        if outlook.end is not None:
            self.ending.end(ticket, started.attempt, outlook.end, mode_of(job), outlook.evidence, outlook.policy)
            return False
        try:
            specs = self._specs_of(job)
        except UploadGone as error:
            self.ending.end(ticket, started.attempt, failed("upload_gone", str(error)))
            return False
        except UnusableVariant as error:
            self.ending.end(ticket, started.attempt, failed("unusable_variant", str(error)))
            return False
        if specs is None:
            self.rq.retry(ticket, "the worker stops")
            return False
        self._submit(JobInFlight(job, started.attempt, ticket, outlook.texts), specs)
        return True

    def _submit(self, one: JobInFlight, specs: tuple[PictureSpec, ...]) -> None:
        self.slots.hold(one)
        try:
            self.progress.open(one.job, one.attempt)
            self.engine.submit(*specs)
        except Exception:
            self.slots.drop(one)
            self.progress.close(one.job.id)
            self.engine.cancel(one.job.id)
            raise

    def _specs_of(self, job: Job) -> tuple[PictureSpec, ...] | None:
        """What the engine is to make or to judge. None: the worker is to end before it could.

        Raises:
            UploadGone, UnusableVariant
        """
        if job.uploads:
            return PictureSpec.uploaded(job, self.uploads.of(job))
        variants = self._variants_of(job)
        return PictureSpec.all_of(job, variants) if variants is not None else None

    def _variants_of(self, job: Job) -> dict[str, ErasedWeights] | None:
        """The erased weights that the job's plans name; loaded here, where it holds up no picture in flight.

        Pictures that leave no room for them are waited for. None: the worker is to end before there is any.
        """
        plans = [job.of_picture(index).plan for index in range(len(job.seeds))]
        names = {plan.weights.variant for plan in plans if plan.weights}
        if names and self.variants is None:
            raise UnusableVariant("this worker has no erased weights")
        alone = 0
        while True:
            try:
                return {name: self.variants.get(name) for name in names} if self.variants else {}
            except NoRoom:
                alone = 0 if self.slots.held else alone + 1
                if alone > LOOKS_WHEN_ALONE:
                    raise
            if self.shift.must_end:
                return None
            time.sleep(0.05)
