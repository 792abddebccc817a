"""Routes say whom they serve by the type of a parameter:

async def get_job(job_id: JobId, caller: Generating, gateway: Here) -> Response: ...
"""

from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from service.api_keys import Scope
from service.callers import Caller
from service.gateway import gateway_of
from service.limits import limits_of
from service.problems import MissingScope

_bearer = HTTPBearer(
    scheme_name="ApiKey",
    bearerFormat="seemly_<id>_<secret>",
    description="Made by `seemly keys create`. The names are the scopes that a key needs to have. A service on loopback"
    " for which no key was ever made wants none.",
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


Anyone = Annotated[Caller, Security(authenticated)]
Generating = Annotated[Caller, Security(authenticated, scopes=[Scope.GENERATE.value])]
Moderating = Annotated[Caller, Security(authenticated, scopes=[Scope.MODERATE.value])]
Reviewing = Annotated[Caller, Security(authenticated, scopes=[Scope.REVIEW.value])]
Administering = Annotated[Caller, Security(authenticated, scopes=[Scope.ADMIN.value])]
