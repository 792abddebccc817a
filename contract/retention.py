"""Retention: how long what jobs leave behind is kept, and how the audit says that it went.

A job for pictures that ended stands in its tenant's `keys.ended_jobs_key`, by the time of its end, or of an appeal or
decision since, until its record is gone: by itself, at the end of its time in Redis, or by ERASE, which also obeys a
policy that was tightened since. Either way ERASE puts on record that it went. Pictures are files, whose names are put
on record once they are deleted.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from contract import keys
from contract.chain import APPENDING
from contract.request import MAX_PICTURES
from contract.strict import Number, Strict

Seconds = Annotated[int, Field(ge=1, le=10 * 365 * 86_400), Number]


@dataclass(frozen=True)
class Lifetimes:
    """For how many seconds what jobs leave behind is kept."""

    results_s: float  # records of finished jobs, with their prompts, and passed pictures
    held_s: float  # pictures that only people who review see, and their jobs' records; not shorter than the others
    audit_s: float


class Retention(Strict):
    """How long what jobs leave behind is kept. What the deployment's settings say is the most; null: that."""

    results_s: Seconds | None = Field(
        None, description="Records of finished jobs, with their prompts, and passed pictures. Seconds."
    )
    held_s: Seconds | None = Field(
        None, description="Pictures before a person, and their jobs' records; never shorter than `results_s`."
    )
    audit_s: Seconds | None = Field(None, description="Entries of the audit.")

    def within(self, most: Lifetimes) -> Lifetimes:
        """The shorter of this and the deployment's."""
        results_s = min(most.results_s, self.results_s or most.results_s)
        held_s = min(most.held_s, self.held_s or most.held_s)
        return Lifetimes(results_s, max(results_s, held_s), min(most.audit_s, self.audit_s or most.audit_s))


# ARGV = tenant, now, seconds that results are kept, seconds where a picture is held, the time as the entry states it,
# the policy as JSON or '', how many to pass over, how many to look at. Deletes the records of ended jobs whose time is
# over, and puts on record which went, those that went by themselves included. Returns {gone, looked at}.
ERASE = (
    APPENDING
    + f"""
local tenant, now = ARGV[1], tonumber(ARGV[2])
local list = '{keys.ended_jobs_key("' .. tenant .. '")}'
local function is_gone(id, ended)
  local key = '{keys.job_key("")}' .. id
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'hash' then return kind == 'none' end
  local is_held = string.find(redis.call('HGET', key, 'result') or '', '"kept":true', 1, true)
  return ended + tonumber(is_held and ARGV[4] or ARGV[3]) <= now
end
local gone, looked = {{}}, redis.call('ZRANGE', list, ARGV[7], ARGV[7] + ARGV[8] - 1, 'WITHSCORES')
for i = 1, #looked, 2 do
  if is_gone(looked[i], tonumber(looked[i + 1])) then gone[#gone + 1] = looked[i] end
end
if #gone > 0 then
  local policy = ARGV[6] ~= '' and ',"policy":' .. ARGV[6] or ''
  local body = string.format('{{"kind":"erased","tenant":%s,"at":%s,"what":"results","count":%d,"names":%s%s}}',
    cjson.encode(tenant), cjson.encode(ARGV[5]), #gone, cjson.encode(gone), policy)
  append(tenant, body, sha256(body))
  for _, id in ipairs(gone) do
    redis.call('DEL', '{keys.job_key("")}' .. id, '{keys.events_key("")}' .. id)
    for index = 0, {MAX_PICTURES - 1} do
      redis.call('DEL', '{keys.review_key("")}' .. id .. '-' .. index)
      redis.call('ZREM', '{keys.tenant_reviews_key("' .. tenant .. '")}', id .. '-' .. index)
      redis.call('ZREM', '{keys.PENDING_REVIEWS}', id .. '-' .. index)
    end
    redis.call('ZREM', list, id)
  end
end
if redis.call('EXISTS', list) == 0 then redis.call('SREM', '{keys.ENDED}', tenant) end
return {{#gone, #looked / 2}}
"""
)
