"""Erasures: from a request to a job for a lab's worker, and the job as told over HTTP."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from contract.erasure import ErasureJob, ErasureRequest, ErasureResult, ErasureView
from contract.model import ModelInfo
from contract.recipe import Recipe, Sdd, Uce
from contract.result import Status
from service.idempotency import fingerprint_of
from service.intake import Intake
from service.kept import KeptRecord
from service.models import Catalogue, count_tokens, holds_mark, too_long
from service.problems import FieldError, InvalidRequest, NoLab, VariantExists
from service.queue import Standing
from service.tenants import TenantLimits


@dataclass(frozen=True)
class ErasureRecord(KeptRecord[ErasureJob, ErasureResult]):
    """An erasure's record in Redis, parsed."""

    @classmethod
    def read(cls, fields: Mapping[str, str] | None) -> "ErasureRecord | None":
        """The record; None where there is none, or one that cannot be read."""
        return cls.parsed(fields, ErasureJob, ErasureResult)

    @property
    def view(self) -> ErasureView:
        """The erasure as told over HTTP."""
        return view_of(self.job).model_copy(
            update={
                "status": self.status,
                "started_at": self.started_at,
                "finished_at": self.finished_at,
                "attempt": self.attempt,
                "made": self.result.made if self.result else None,
                "error": self.result.error if self.result else None,
            }
        )


def view_of(job: ErasureJob) -> ErasureView:
    """An erasure that nobody has begun yet."""
    told = job.model_dump(include={"id", "created_at", "model", "name"})
    return ErasureView(status=Status.QUEUED, recipe=job.recipe, attempt=0, **told)


@dataclass(frozen=True)
class ErasureAdmission:
    """Takes erasures in. Blocking; call it from a thread."""

    catalogue: Catalogue
    intake: Intake

    def admit(
        self, request: ErasureRequest, tenant: str, limits: TenantLimits, key: str | None
    ) -> tuple[Standing, ErasureJob | None]:
        """Check a request, make it a job and enqueue it. The job; None when an earlier request has made it.

        key: the digest of the Idempotency-Key under which it counts once

        Raises:
            Refusal: when it is not served; then nothing was enqueued.
        """
        fingerprint = fingerprint_of(request)
        if (earlier := self.intake.earlier(tenant, key, fingerprint)) is not None:
            return earlier, None
        self.intake.check_webhook(request.webhook_url, tenant)
        model = self.catalogue.model(request.model)
        self._check_lab(model)
        if request.name in {*model.refused_variants, *(variant.name for variant in model.variants)}:
            raise VariantExists(f"The model {model.name!r} has a variant of this name already; choose another.")
        if errors := list(self._text_errors(request.recipe, model)):
            raise InvalidRequest(*errors)
        job = ErasureJob(
            id=uuid.uuid4().hex,
            tenant=tenant,
            created_at=datetime.now(UTC),
            deadline_at=None,
            model=model.name,
            name=request.name,
            base_sha256=model.weights_sha256,
            recipe=request.recipe,
            gate=request.gate,
            prompts=request.prompts,
        )
        terms = self.intake.terms(limits, key, fingerprint, request.webhook_url)
        accepted = self.intake.queue.accept(job, replace(terms, cost=None, variant=request.name))
        return accepted, job if accepted.is_new else None

    def _check_lab(self, model: ModelInfo) -> None:
        lab = self.intake.queue.lab(model.name)
        if lab is None:
            raise NoLab(f"No lab worker has announced itself for the model {model.name!r}; start one.", 30)
        if lab.weights_sha256 != model.weights_sha256:
            raise NoLab(f"The lab worker of the model {model.name!r} has other weights than those that are served.", 30)

    def _text_errors(self, recipe: Recipe, model: ModelInfo) -> Iterator[FieldError]:
        """Texts that the model's encoder does not read whole."""
        tokenizer = self.catalogue.tokenizer(model)
        for field, text in _texts(recipe):
            count = count_tokens(tokenizer, text, model.max_tokens)
            if count.stray_mark:
                yield holds_mark(field, count)
            elif count.lost_words:
                yield too_long(field, count, model.max_tokens)


def _texts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for index, text in enumerate(recipe.concepts):
        yield f"recipe.concepts.{index}", text
    match recipe:
        case Sdd():
            yield "recipe.concepts", ", ".join(recipe.concepts)  # it erases them as one text
        case Uce():
            yield "recipe.guide", recipe.guide
            for index, text in enumerate(recipe.preserved):
                yield f"recipe.preserved.{index}", text
