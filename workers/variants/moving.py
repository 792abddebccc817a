"""Jobs of `POST /variants/…/promote` and `…/retire`: done at once, beside whatever is in flight."""

import logging

from pydantic import ValidationError

from contract.result import Ended, Status
from contract.standing import StandingJob, StandingResult
from workers.records import Started
from workers.results import failed
from workers.taking import why_over
from workers.variants.reading import UnusableVariant
from workers.variants.shelf import VariantShelf
from workers.variants.standing import NotPromoted

log = logging.getLogger(__name__)


def moved(started: Started, shelf: VariantShelf | None) -> Ended:
    """Do what the job says, and tell what became of it."""
    try:
        job = StandingJob.model_validate_json(started.job_json)
    except ValidationError:
        return failed("invalid_job", "the job's record is invalid")
    if (end := why_over(job, started)) is not None:
        return end
    if shelf is None:
        return failed("variant_not_found", "this worker has no erased weights")
    try:
        variant = shelf.move(job.name, job.status, job.reason)
    except NotPromoted as error:
        return failed("not_promoted", str(error))
    except UnusableVariant as error:
        return failed("variant_not_found", str(error))
    except (OSError, ValueError) as error:
        log.error("the card of %s could not be written: %s", job.name, type(error).__name__)
        why = error.strerror if isinstance(error, OSError) else "it is not as this version writes it"
        return failed("variant_damaged", f"the card of the variant cannot be read or written: {why}")
    return StandingResult(status=Status.SUCCEEDED, variant=variant)
