"""`POST /v1/moderations`: moderation for OpenAI's clients, unchanged."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends

from service.compatible.moderations import ModerationsAnswer, ModerationsRequest, answer_of
from service.json_only import require_json
from service.moderating import is_judged
from service.observing import request_id_of
from service.problem_json import documented
from service.problems import FieldError, InvalidRequest, NotJudged
from service.routes.moderate import PICTURE, REFUSALS, ToModerate

router = APIRouter(prefix="/v1", tags=["compatible"])

_EXAMPLES: dict[str, Any] = {
    "text": {"summary": "A text", "value": {"input": "a quiet street"}},
    "both": {
        "summary": "A text and a picture",
        "value": {
            "input": [
                {"type": "text", "text": "a quiet street"},
                {"type": "image_url", "image_url": {"url": PICTURE}},
            ]
        },
    },
}


@router.post(
    "/moderations",
    operation_id="create_moderation",
    summary="Judge texts and pictures, as OpenAI's clients ask for it",
    responses=documented(*REFUSALS),
    dependencies=[Depends(require_json)],
)
async def create_moderation(
    body: Annotated[ModerationsRequest, Body(openapi_examples=_EXAMPLES)], submission: ToModerate
) -> ModerationsAnswer:
    """`POST /moderate` in OpenAI's words: texts by the policy's prompt rules, pictures (data: URLs) by the detectors.

    A picture that could not be judged is an error, never a result. Errors have OpenAI's shape.
    """
    try:
        moderation = await submission.gateway.moderator.moderate(body.wanted, submission)
    except InvalidRequest as refused:
        errors = (FieldError(field=body.place_of(error.field), message=error.message) for error in refused.errors)
        raise InvalidRequest(*errors) from None
    if not is_judged(moderation):
        raise NotJudged("A picture could not be judged; send it again.", 5)
    return answer_of(body, moderation, request_id_of(submission.request.scope))
