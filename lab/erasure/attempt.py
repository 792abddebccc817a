"""One attempt at an erasure, and what it comes to.

What an attempt leaves off, because its worker was told to end or was killed, the next goes on with; so it does after
trouble that is not the recipe's, such as a full disk. When the last attempt had trouble too, the work is kept.
"""

import threading
from dataclasses import dataclass, field
from typing import Final

import torch

from contract.erasure import ErasureJob, ErasureResult
from contract.result import Ended, Status
from lab.erasure.job import Stopped, Tell, Unmakeable, Workshop
from lab.erasure.original import UnusableConcept
from lab.erasure.training import Diverged
from workers.results import failed
from workers.trouble import log_error
from workers.variants.writing import UnusableWeights

CODES: Final[
    dict[type[Exception], str]
] = {  # of what a recipe itself may end in, whose messages quote names and settings only
    UnusableConcept: "unusable_concept",
    Diverged: "diverged",
    UnusableWeights: "erasure_failed",
}
TROUBLE: Final = "lab_trouble"


@dataclass(frozen=True)
class Attempt:
    """A job in hand."""

    job: ErasureJob
    attempt: int
    is_stopped: threading.Event = field(default_factory=threading.Event)

    def result(self, workshop: Workshop, tell: Tell) -> Ended | None:
        """Do the job. None: it was stopped, or had trouble, and another attempt is to go on with it.

        Raises:
            torch.AcceleratorError: the device is lost, for this process; `after` says what the job comes to.
        """
        try:
            made = workshop.make(self.job, tell)
        except Stopped:
            return None
        except Unmakeable as error:
            return failed(error.code, str(error))
        except tuple(CODES) as error:
            return failed(next(code for kind, code in CODES.items() if isinstance(error, kind)), str(error))
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - one job's trouble must not end the others
            return self.after(error)
        return ErasureResult(status=Status.SUCCEEDED, made=made)

    def after(self, trouble: Exception) -> Ended | None:
        """What an attempt with trouble that is not the recipe's comes to. None: another is to go on with it."""
        log_error(f"attempt {self.attempt} at the erasure {self.job.id} failed; its work is kept", trouble)
        if self.attempt < self.job.most_attempts:
            return None
        return failed(TROUBLE, f"every attempt failed, the last with {type(trouble).__name__}; see the lab's log")


def keeps_work(result: Ended) -> bool:
    """Whether what was made stays, although the job is over."""
    return result.error is not None and result.error.code == TROUBLE
