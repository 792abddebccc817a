"""Routes say whom they serve by the type of a parameter:

async def get_job(job_id: JobId, caller: Generating, gateway: Here) -> Response: ...
"""

from typing import Annotated

from fastapi import Path, Query, Request, Security
from fastapi.security import APIKeyQuery, HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from service.api_keys import Scope
from service.callers import Caller
from service.gateway import gateway_of
from service.limits import limits_of
from service.links import LATEST
from service.problems import MissingScope

_bearer = HTTPBearer(
    scheme_name="ApiKey",
    bearerFormat="seemly_<id>_<secret>",
    description="Made by `seemly keys create`. The names are the scopes that a key needs to have. A service on loopback"
    " for which no key was ever made wants none.",
    auto_error=False,
)
_signature = APIKeyQuery(
    name="signature",
    scheme_name="SignedLink",
    description="Of a `signed_url`, which is used as it is: no key is needed until it expires.",
    auto_error=False,
)


async def authenticated(
    request: Request,
    needed: SecurityScopes,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """The caller, who has every scope that the route needs."""
    caller = await gateway_of(request).callers.of(bearer.credentials if bearer else None)
    if missing := [scope for scope in needed.scopes if scope not in caller.scopes]:
        raise MissingScope(missing)
    if not caller.is_local and "limits" not in request.scope["state"]:
        limits, headers = await limits_of(gateway_of(request).limits, caller.tenant)
        request.scope["state"] |= {"limits": limits, "headers": headers}
    return caller


async def link_or_key(
    request: Request,
    needed: SecurityScopes,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    signature: Annotated[str | None, Security(_signature)],
    job_id: Annotated[str, Path()],
    index: Annotated[int, Path(ge=0, le=999)],
    expires: Annotated[int | None, Query(ge=0, le=LATEST, description="Of a `signed_url`: epoch seconds.")] = None,
) -> str:
    """The tenant whose picture may be read: the signed link's where there is a signature, else the key's."""
    if signature is None:
        return (await authenticated(request, needed, bearer)).tenant
    return await gateway_of(request).links.tenant_of(job_id, index, expires, signature)


Anyone = Annotated[Caller, Security(authenticated)]
Generating = Annotated[Caller, Security(authenticated, scopes=[Scope.GENERATE.value])]
Reading = Annotated[str, Security(link_or_key, scopes=[Scope.GENERATE.value])]
Moderating = Annotated[Caller, Security(authenticated, scopes=[Scope.MODERATE.value])]
Reviewing = Annotated[Caller, Security(authenticated, scopes=[Scope.REVIEW.value])]
Administering = Annotated[Caller, Security(authenticated, scopes=[Scope.ADMIN.value])]
