"""How a job is accepted: one script that looks at everything a job may be refused for, then writes all of it at once.

Fairness is where a job is put into RQ's one list. Every job has a turn, a point on a clock that runs with the work
that is taken up (start-time fair queueing, Goyal et al. 1996):

    turn = max(turn of the first waiting job, what this tenant's last turn cost it), and the list is kept in that order

So a tenant with one job waits behind one job of each other tenant at most, however many those have waiting. Priorities
order a tenant's own jobs only: one that comes first takes the place of its tenant's next job, and these move on by one.
Jobs that take nothing of the engine go to the front, in the order in which they came, and have no turn.
The clock starts anew whenever nothing waits. Turns of jobs that have started or ended are forgotten by the scripts of
`contract.record`; a job that comes back from a dead worker goes to the front and has none.
"""

import json
from dataclasses import dataclass
from typing import Literal

from contract import keys
from contract.job import AnyJob
from contract.record import EVENTS_MAXLEN, EVENTS_TTL_S, accepted_fields

FORGET_S = 30 * 86_400  # how long an id is known to have been a job
PLACES_WITHOUT_TURN = 64  # at most so many jobs at the front that came back, or that go first, are looked past

Priority = Literal["low", "normal", "high"]
RANKS: dict[Priority, int] = {"low": 0, "normal": 1, "high": 2}


@dataclass(frozen=True)
class Terms:
    """Under which circumstances a job is accepted, and how it then stands. A limit of None is none."""

    queue_limit: int
    service_s: float | None = 0  # what a job takes, for the estimate that the `queued` event tells; None: not known
    in_flight: int = 1
    priority: Priority = "normal"
    jobs: int | None = None  # of this tenant, unfinished
    cost: int | None = None  # of these, in pixel-steps
    end_user: str | None = None  # a digest
    refusals: int | None = None  # of this end user, in a window of `record.REFUSALS_WINDOW_S`
    webhook_url: str | None = None
    webhooks: int | None = None  # of this tenant, undelivered
    idempotency_key: str | None = None  # a digest
    fingerprint: str | None = None  # of the request that came with it
    idempotency_ttl_s: int = 86_400
    variant: str | None = None  # that it makes: one job at a time may


def keys_of(job: AnyJob, terms: Terms) -> list[str]:
    """KEYS of the script."""
    return [
        keys.job_key(job.id),
        keys.ACCEPTED,
        keys.events_key(job.id),
        f"rq:job:{job.id}",
        f"rq:queue:{job.queue}",
        f"rq:queue:{job.queue}:intermediate",
        "rq:queues",
        keys.tenant_jobs_key(job.tenant, job.kind),
        keys.in_flight_key(job.tenant),
        keys.turns_key(job.queue),
        keys.last_turns_key(job.queue),
        keys.refusals_key(job.tenant, terms.end_user or ""),
        keys.idempotency_key(job.tenant, terms.idempotency_key or ""),
        keys.due_deliveries_key(job.tenant),
        keys.claim_key(job.model, terms.variant or ""),
    ]


def arguments_of(
    job: AnyJob, terms: Terms, rq_fields: dict[str, bytes | str | int | float]
) -> list[bytes | str | float]:
    """ARGV of the script; `rq_fields` are those of RQ's own hash."""
    told = {
        "id": job.id,
        "tenant": job.tenant,
        "rank": RANKS[terms.priority],
        "queue_limit": terms.queue_limit,
        "service_s": terms.service_s,
        "in_flight": max(1, terms.in_flight),
        "jobs": terms.jobs,
        "most": terms.cost,
        "refusals": terms.refusals if terms.end_user else None,
        "webhooks": terms.webhooks if terms.webhook_url else None,
        "fingerprint": terms.fingerprint if terms.idempotency_key else None,
        "idempotency_ttl_s": terms.idempotency_ttl_s,
        "variant": terms.variant,
        "first": job.function if job.goes_first else None,
    }
    known = {name: value for name, value in told.items() if value is not None}
    fields = accepted_fields(job, RANKS[terms.priority], terms.end_user, terms.webhook_url)
    return [
        json.dumps(known),
        repr(job.created_at.timestamp()),
        job.created_at.isoformat(),
        str(job.cost),
        len(fields),
        *(part for field in fields.items() for part in field),
        *(part for field in rq_fields.items() for part in field),
    ]


# Answers {what, …}: accepted, position, unfinished jobs, their cost · replay, job, created_at · reused · refusals,
# seconds · claimed, job · webhooks, undelivered · queue_full, waiting · jobs or cost (of which there is too much),
# unfinished jobs, their cost. Nothing is written but in the first case, and there a full Redis refuses the first write.
# Costs reach 10^13, more digits than Lua writes of its own accord.
ACCEPT = f"""
local record, accepted, events, rq_job, queue, popped, rq_queues, index, held, turns, last, refusals, known,
  undelivered, claim = unpack(KEYS)
local job, now, created_at, cost = cjson.decode(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])

local function exactly(number) return string.format('%.0f', number) end

local function unfinished()
  local total = redis.call('HGET', held, 'total')
  return redis.call('HLEN', held) - (total and 1 or 0), tonumber(total or '0')
end

local function is_too_much()
  local jobs, total = unfinished()
  if job.jobs and jobs >= job.jobs then return 'jobs', jobs, total end
  if job.most and total + cost > job.most then return 'cost', jobs, total end
end

local function forget_those_gone()
  local entries = redis.call('HGETALL', held)
  for i = 1, #entries, 2 do
    if entries[i] ~= 'total' and redis.call('EXISTS', '{keys.job_key("")}' .. entries[i]) == 0 then
      redis.call('HDEL', held, entries[i])
      redis.call('HINCRBY', held, 'total', '-' .. entries[i + 1])
    end
  end
end

-- the turn of the first waiting job that has one; no turn is left where nobody waits
local function clock()
  for _, waiting in ipairs(redis.call('LRANGE', queue, 0, {PLACES_WITHOUT_TURN - 1})) do
    local turn = redis.call('ZSCORE', turns, waiting)
    if turn then return tonumber(turn) end
  end
  redis.call('DEL', turns, last)
  return 0
end

-- before the first waiting job whose turn is not earlier, but after those of the same tenant
local function insert(turn)
  for _, waiting in ipairs(redis.call('ZRANGEBYSCORE', turns, exactly(turn), '+inf', 'LIMIT', 0, 100)) do
    if redis.call('HGET', '{keys.job_key("")}' .. waiting, 'tenant') ~= job.tenant
        and redis.call('LINSERT', queue, 'BEFORE', waiting, job.id) > 0 then return end
  end
  redis.call('RPUSH', queue, job.id)
end

-- this tenant's places, in the order of the list, are taken by its jobs in the order of their priorities
local function order_own()
  local places, own, at = {{}}, {{}}, nil
  for place, waiting in ipairs(redis.call('LRANGE', queue, 0, -1)) do
    local turn = redis.call('ZSCORE', turns, waiting)
    local fields = turn and redis.call('HMGET', '{keys.job_key("")}' .. waiting, 'tenant', 'rank')
    if turn and fields[1] == job.tenant then
      places[#places + 1] = {{place - 1, turn}}
      if waiting ~= job.id then
        if not at and tonumber(fields[2] or '1') < job.rank then at = #own + 1 end
        own[#own + 1] = waiting
      end
    end
  end
  table.insert(own, at or #own + 1, job.id)
  for i = at or #own, #own do
    redis.call('LSET', queue, places[i][1], own[i])
    redis.call('ZADD', turns, places[i][2], own[i])
  end
end

local function take_place()
  local turn = math.max(clock(), tonumber(redis.call('HGET', last, job.tenant) or '0'))
  insert(turn)
  redis.call('ZADD', turns, exactly(turn), job.id)
  redis.call('HSET', last, job.tenant, exactly(turn + cost))
  local lowest = tonumber(redis.call('HGET', last, 'lowest:' .. job.tenant) or job.rank)
  if job.rank > lowest then order_own() end
  redis.call('HSET', last, 'lowest:' .. job.tenant, math.min(lowest, job.rank))
end

-- behind those like it
local function go_first()
  for _, waiting in ipairs(redis.call('LRANGE', queue, 0, {PLACES_WITHOUT_TURN - 1})) do
    if redis.call('HGET', '{keys.job_key("")}' .. waiting, 'function') ~= job.first then
      return redis.call('LINSERT', queue, 'BEFORE', waiting, job.id)
    end
  end
  redis.call('RPUSH', queue, job.id)
end

if job.fingerprint then
  local first = redis.call('HMGET', known, 'fingerprint', 'job', 'created_at')
  if first[1] == job.fingerprint then return {{'replay', first[2], first[3]}} end
  if first[1] then return {{'reused'}} end
end
local claimant = job.variant and redis.call('GET', claim)
local claimed = claimant and redis.call('HGET', '{keys.job_key("")}' .. claimant, 'status')
if claimed == 'queued' or claimed == 'running' then return {{'claimed', claimant}} end
if job.refusals and tonumber(redis.call('GET', refusals) or '0') >= job.refusals then
  return {{'refusals', redis.call('TTL', refusals)}}
end
if job.webhooks and redis.call('ZCARD', undelivered) >= job.webhooks then
  return {{'webhooks', redis.call('ZCARD', undelivered)}}
end
local ahead = redis.call('LLEN', queue) + redis.call('LLEN', popped)
if ahead >= job.queue_limit then return {{'queue_full', ahead}} end
if is_too_much() then
  forget_those_gone()
  local what, jobs, total = is_too_much()
  if what then return {{what, jobs, exactly(total)}} end
end

local fields = 5 + 2 * tonumber(ARGV[5])
redis.call('HSET', record, unpack(ARGV, 6, fields))
redis.call('HSET', rq_job, unpack(ARGV, fields + 1))
redis.call('SADD', rq_queues, queue)
redis.call('ZADD', accepted, now, job.id)
redis.call('ZADD', index, now, job.id)
redis.call('ZREMRANGEBYSCORE', index, '-inf', tonumber(now) - {FORGET_S})
redis.call('EXPIRE', index, {FORGET_S})
redis.call('HSET', held, job.id, exactly(cost))
redis.call('HINCRBY', held, 'total', exactly(cost))
if job.first then go_first() else take_place() end
local position = redis.call('LLEN', popped) + redis.call('LPOS', queue, job.id) + 1
local eta_s = job.service_s and job.service_s + (position - 1) * job.service_s / job.in_flight
redis.call('XADD', events, 'MAXLEN', '~', {EVENTS_MAXLEN}, '*', 'type', 'queued',
  'data', cjson.encode({{position = position, eta_s = eta_s and math.floor(eta_s * 100 + 0.5) / 100}}))
redis.call('EXPIRE', events, {EVENTS_TTL_S})
if job.variant then redis.call('SET', claim, job.id, 'EX', {FORGET_S}) end
if job.fingerprint then
  redis.call('HSET', known, 'fingerprint', job.fingerprint, 'job', job.id, 'created_at', created_at)
  redis.call('EXPIRE', known, job.idempotency_ttl_s)
end
local jobs, total = unfinished()
return {{'accepted', position, jobs, exactly(total)}}
"""

# KEYS = what an Idempotency-Key stands for; ARGV = fingerprint, seconds. Answers the fingerprint that came first.
REMEMBER = """
local first = redis.call('HGET', KEYS[1], 'fingerprint')
if first then return first end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return ARGV[1]
"""

# KEYS as above; ARGV = a job.
FORGET = """
if redis.call('HGET', KEYS[1], 'job') == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""
