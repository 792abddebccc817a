"""Reviews: withheld pictures that a person decides on, and the ways a decision changes a result.

A review is a hash (`keys.review_key`):

    id, tenant, job, index    `<job>-<index>`; whose picture it is, and which
    cause                     a `Cause`; `appeal` with what the appellant said in `reason`
    state                     a `ReviewState`
    approvals                 JSON: `Opinion`s so far, the last one last
    version                   how often it was changed; whoever writes must have read the last one
    created_at                epoch seconds

It stands in its tenant's `keys.tenant_reviews_key`, by the time it came up, and until it is decided among everyone's
`keys.PENDING_REVIEWS`. Held pictures come up in the script that commits their job, appeals in APPEAL. Of a blocked
picture the bytes may not have been kept: then the evidence is decided on, and approval overturns the block without
releasing anything. A decision is one script as well: the opinion, its entry in the audit, the result in the job's
record and the message to the webhook are there together, or none of them is.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field, StrictBool, StringConstraints

from contract import keys
from contract.chain import APPENDING
from contract.concept_text import ConceptName
from contract.filter import Action
from contract.job import PolicyRef
from contract.outbox import TELL
from contract.result import Status
from contract.strict import Number, Strict, Text
from contract.verdict import ConceptScore, Verdict

Reason = Annotated[Text, StringConstraints(strip_whitespace=True), Field(min_length=1, max_length=1000)]


class ReviewState(StrEnum):
    """Where a review stands."""

    WAITING = "waiting"
    SECOND = "second"  # approved by one person, where the policy wants two
    APPROVED = "approved"
    REJECTED = "rejected"


class Cause(StrEnum):
    """Why a picture is before a person."""

    HELD = "held"  # the action for a concept found in it is `review`, or its block was overturned unseen
    APPEAL = "appeal"  # it was blocked, and someone asked for another look


class Answer(StrEnum):
    """What a person says to a picture."""

    APPROVE = "approve"
    REJECT = "reject"


class Opinion(Strict):
    """What one person said. `by` names an API key, or this machine's developer."""

    by: str
    decision: Answer
    reason: str
    at: AwareDatetime
    concepts: tuple[str, ...] = Field(
        (), description="What was found by then, in the picture and in its prompt: an approval covers no more."
    )


class DecisionRequest(Strict):
    """The body of `POST /reviews/{id}`."""

    decision: Answer
    reason: Reason = Field(description="Told to whoever asked for the picture, in its reasons.")
    concepts: dict[ConceptName, StrictBool] | None = Field(
        None,
        max_length=128,
        description="What is really to be seen: concept → whether it is there, for the labelled set. Null: none of"
        " those found, when approved; when rejected, the one that was found, if it was only one; nothing, when the"
        " picture's bytes were not kept.",
    )


class AppealRequest(Strict):
    """The body of `POST /jobs/{id}/appeal`."""

    index: Annotated[int, Field(ge=0, le=999), Number] = Field(0, description="Of the blocked picture.")
    reason: Reason = Field(description="Why it should not have been blocked; a person will read it.")


class Review(Strict):
    """A withheld picture before a person: the evidence, and where its bytes can be looked at."""

    id: str
    state: ReviewState
    cause: Cause
    appeal: str | None = Field(description="What the appellant said; null without an appeal.")
    created_at: AwareDatetime
    job_id: str
    index: int
    verdict: Verdict = Field(description="Under the policy of now, and never milder than it was but by a decision.")
    action: Action | None = Field(None, description="The strictest of what was found; null: nothing was.")
    seed: int
    width: int
    height: int
    model: str
    policy: PolicyRef
    concepts: tuple[ConceptScore, ...]
    reasons: tuple[str, ...]
    opinions: tuple[Opinion, ...] = Field(description="Of the people who have decided so far.")
    reviewers: int = Field(description="How many must approve before the picture is released.")
    prompt: str | None = Field(description="Where the policy keeps prompts, and a picture was made from one.")
    thumbnail_url: str | None = Field(
        description="The picture past recognition. Null, as below: its bytes were not kept, the evidence is decided on."
    )
    picture_url: str | None = Field(description="The picture. Every look at it is put on record.")


class ReviewPage(Strict):
    """Some of a tenant's reviews, newest first."""

    reviews: tuple[Review, ...]
    next_cursor: str | None = Field(description="Where the next page begins; null: there is none.")


class Appealed(Strict):
    """A blocked picture is before a person."""

    review_id: str
    job_id: str
    index: int
    state: ReviewState
    job_status: Status


def review_id(job_id: str, index: int) -> str:
    """The id of a picture's review; it has one at most."""
    return f"{job_id}-{index}"


# Part of scripts: puts a picture before a person. A tenant's list outlives its reviews by nothing; from everyone's,
# whose times differ, each goes with its job (`contract.retention`).
_PUT_UP = f"""
local function put_up(tenant, job, index, cause, reason, now, ttl)
  local review, list = job .. '-' .. index, '{keys.tenant_reviews_key("' .. tenant .. '")}'
  local key = '{keys.review_key("")}' .. review
  redis.call('HSET', key, 'id', review, 'tenant', tenant, 'job', job, 'index', index, 'cause', cause,
    'reason', reason, 'state', '{ReviewState.WAITING}', 'approvals', '[]', 'version', 0, 'created_at', now)
  redis.call('EXPIRE', key, ttl)
  redis.call('ZADD', list, now, review)
  redis.call('ZADD', '{keys.PENDING_REVIEWS}', now, review)
  redis.call('ZREMRANGEBYSCORE', list, '-inf', tonumber(now) - ttl)
  if redis.call('TTL', list) < tonumber(ttl) then redis.call('EXPIRE', list, ttl) end
end
"""

# Part of the scripts that end a job: hold(tenant, job, result, now, seconds the record is kept).
HOLDING = (
    _PUT_UP
    + f"""
local function hold(tenant, job, result, now, ttl)
  for _, picture in ipairs(cjson.decode(result).images or {{}}) do
    if picture.verdict == 'review' and picture.kept then
      put_up(tenant, job, picture.index, '{Cause.HELD}', '', now, ttl)
    end
  end
end
"""
)

# KEYS = review, record; ARGV = tenant, job, index, reason, now, seconds that the review is kept, entry, its SHA-256.
# Puts a blocked picture before a person. 0 when it is, or was, already.
APPEAL = (
    APPENDING
    + _PUT_UP
    + f"""
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
append(ARGV[1], ARGV[7], ARGV[8])
put_up(ARGV[1], ARGV[2], ARGV[3], '{Cause.APPEAL}', ARGV[4], ARGV[5], ARGV[6])
if redis.call('TTL', KEYS[2]) < tonumber(ARGV[6]) then redis.call('EXPIRE', KEYS[2], ARGV[6]) end
redis.call('ZADD', '{keys.ended_jobs_key("' .. ARGV[1] .. '")}', 'XX', ARGV[5], ARGV[2])
return 1
"""
)

# KEYS = review, record; ARGV = version of the review, version of the record, state, opinions, now, entry, its SHA-256,
# and, when it is decided, the job's status and result, the seconds that the record is kept at least, and the status and
# what else the webhook is told. 0 when review or record was changed since they were read.
DECIDE = (
    APPENDING
    + TELL
    + f"""
local of = redis.call('HMGET', KEYS[1], 'version', 'tenant', 'job', 'index', 'id')
local record = redis.call('HMGET', KEYS[2], 'version', 'webhook_url', 'kind', 'function')
if of[1] ~= ARGV[1] or (record[1] or '0') ~= ARGV[2] then return 0 end
append(of[2], ARGV[6], ARGV[7])
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'approvals', ARGV[4])
redis.call('HINCRBY', KEYS[1], 'version', 1)
if ARGV[8] then
  redis.call('ZREM', '{keys.PENDING_REVIEWS}', of[5])
  redis.call('HSET', KEYS[2], 'status', ARGV[8], 'result', ARGV[9])
  redis.call('HINCRBY', KEYS[2], 'version', 1)
  if redis.call('TTL', KEYS[2]) < tonumber(ARGV[10]) then redis.call('EXPIRE', KEYS[2], ARGV[10]) end
  redis.call('ZADD', '{keys.ended_jobs_key("' .. of[2] .. '")}', 'XX', ARGV[5], of[3])
  if record[2] then
    tell('msg_' .. of[5], of[2], of[3], record[2], ARGV[11], ARGV[12], ARGV[5], record[3], record[4])
  end
end
return 1
"""
)
