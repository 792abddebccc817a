"""`POST /v1/provenance/verify`: where a picture came from."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends

from contract.moderation import VerifyRequest
from contract.provenance import Provenances
from service.authentication import Anyone
from service.forms import DESCRIBED_FILES, FormOrJson
from service.gateway import Here
from service.json_only import require_json
from service.problem_json import documented
from service.problems import BadRequest, InvalidRequest, UnsupportedMediaType
from service.routes.moderate import PICTURE

router = APIRouter(prefix="/v1/provenance", tags=["provenance"], route_class=FormOrJson)

_EXAMPLES: dict[str, Any] = {"picture": {"summary": "A picture", "value": {"images": [PICTURE]}}}


@router.post(
    "/verify",
    operation_id="verify_provenance",
    summary="Find out where pictures came from",
    responses=documented(BadRequest, UnsupportedMediaType, InvalidRequest),
    dependencies=[Depends(require_json)],
    openapi_extra=DESCRIBED_FILES,
)
async def verify(
    body: Annotated[VerifyRequest, Body(openapi_examples=_EXAMPLES)], caller: Anyone, gateway: Here
) -> Provenances:
    """Read files' XMP packets and C2PA manifests, check these against the files, and look whether the very files were
    delivered by one of your jobs. Nothing that a manifest names is fetched. Errors have OpenAI's shape.
    """
    found = [await gateway.verifier.verified(i, image, caller.tenant) for i, image in enumerate(body.images)]
    return Provenances(images=tuple(found))
