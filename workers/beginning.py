"""Whether a started job is run, or ends at once: one that may not run, and one whose prompt a policy blocks.

Prompts are scored for the concepts that the policy in force looks for, and the one that is watched. They are scored
before anything is made; when that fails, nothing is.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from contract.audit import Verdicts
from contract.job import Job
from contract.model import ModelInfo
from contract.policy import InForce, Policy, screened_texts
from contract.prompt_concepts import PromptDecision, TextScore, judged_prompt
from contract.result import Ended, JobError, Picture, Status
from contract.verdict import Verdict
from workers.comparison import Distances, with_comparison
from workers.engine.picture import Outcome, PictureSpec
from workers.evidence import verdicts_of
from workers.metrics import WorkerMetrics
from workers.policies import PolicyReader, UnknownPolicy
from workers.readiness import Detectors
from workers.records import Started
from workers.results import Judged, Timing, failed, result_of, shadow_of, why_forbidden, why_refused
from workers.safety.protocol import DetectorError, ReadText
from workers.taking import why_over


@dataclass(frozen=True)
class Outlook:
    """How a job ends without being run, with what is put on record of that; else what its texts were scored for."""

    end: Ended | None = None
    evidence: Verdicts | None = None
    policy: Policy | None = None  # under which it ends
    texts: tuple[TextScore, ...] = ()


@dataclass(frozen=True)
class Beginning:
    """Looks at jobs for pictures before the engine does. `detectors` scores prompts; None cannot."""

    info: ModelInfo
    policies: PolicyReader
    detectors: Detectors | None
    metrics: WorkerMetrics

    def of(self, job: Job, job_id: str, started: Started) -> Outlook:
        """What becomes of a job that was started under this id."""
        if (reason := self._reason_not_to_run(job, job_id, started)) is not None:
            return Outlook(reason)
        try:
            in_force = self.policies.in_force(job)
        except UnknownPolicy as unknown:
            return Outlook(failed("policy_unknown", str(unknown)))
        if (error := why_forbidden(job, in_force)) is not None:
            return Outlook(Ended(status=Status.FAILED, error=error))
        return self._read(job, started, in_force)

    def _reason_not_to_run(self, job: Job, job_id: str, started: Started) -> Ended | None:
        if job.id != job_id:
            return failed("invalid_job", "the job's record holds another job")
        if (end := why_over(job, started)) is not None:
            return end
        for index in range(max(1, len(job.compared))):
            if (error := why_refused(job.of_picture(index), self.info)) is not None:
                return Ended(status=Status.FAILED, error=error)
        return None

    def _read(self, job: Job, started: Started, in_force: InForce) -> Outlook:
        """The scores of a job's texts; its end where the policy blocks them, or they cannot be scored."""
        concepts = tuple(dict.fromkeys(_concepts(in_force)))
        if job.uploads or not concepts:
            return Outlook()
        try:
            if self.detectors is None:
                raise DetectorError("this worker has nothing that scores prompts for concepts")
            texts = self.detectors.read([ReadText(field, text) for field, text in screened_texts(job)], concepts)
        except DetectorError as error:
            if in_force.policy.prompt_rules.concepts:
                self.metrics.prompts.labels(Verdict.ERROR).inc()
                return self._unmade(job, started, in_force, JobError(code="detector_error", message=str(error)))
            return Outlook()  # only the policy that is watched wants to know
        decision = judged_prompt(texts, in_force.policy.prompt_rules)
        verdict = decision.verdict
        self.metrics.prompts.labels(verdict).inc()
        if verdict is not Verdict.BLOCKED:
            return Outlook(texts=texts)
        return self._unmade(job, started, in_force, decision, texts)

    def _unmade(
        self,
        job: Job,
        started: Started,
        in_force: InForce,
        why: PromptDecision | JobError,
        texts: tuple[TextScore, ...] = (),
    ) -> Outlook:
        """The end of a job none of whose pictures was made, with a verdict on each."""
        if isinstance(why, JobError):
            told = {"verdict": Verdict.ERROR, "error": why}
        else:
            told = {"verdict": Verdict.BLOCKED, "action": why.action, "reasons": why.reasons}
        judged = [
            Judged(Picture(index=spec.index, seed=spec.seed, width=job.width, height=job.height, **told), Outcome(spec))
            for spec in PictureSpec.all_of(job)
        ]
        now = time.time()
        decided = job.model_copy(update={"policy": in_force.policy.ref})
        result = result_of(decided, judged, Timing(job.created_at.timestamp(), now, now, now), self.info)
        result = with_comparison(result.model_copy(update={"texts": texts}), job, judged, Distances())
        shadow = tuple(shadow_of(result.images, job, in_force.watched, texts))
        return Outlook(result, verdicts_of(job, started.attempt, result, shadow), in_force.policy)


def _concepts(in_force: InForce) -> Iterator[str]:
    for policy in filter(None, (in_force.policy, in_force.shadow)):
        yield from (concept.text for concept in policy.prompt_rules.concepts)
