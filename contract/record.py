"""A job's record in Redis and the only ways it may change.

The record is a hash (`keys.job_key`):

    job          the Job, as JSON
    status       a `Status`
    attempt      how often a worker has started it; 0 while queued. The fencing token of every commit
    starter      token of the start that made this attempt, so that one sent twice counts once; absent without one
    cancel       "1" once a cancellation of a running job was asked for
    kind, queue, function        what kind of job it is, RQ's name of its queue, what a worker is to do
    tenant, cost, rank, turns    whose it is, its cost in pixel-steps, its priority, the key its turn stands in
    end_user     digest of the end user it was made for; absent without one
    webhook_url  where its end is told; absent without one
    created_at, started_at, finished_at, deadline_at    epoch seconds; absent when not yet, or never
    result       how it ended (`contract.result.Ended`), as JSON, once terminal
    version      how often a person's decision has changed it since; absent without one

Each change is one Lua script, so no two processes can disagree about it. Every script takes
KEYS = record, `keys.ACCEPTED`, events stream; a terminal status is never left again, but for what a person decides on
withheld pictures (`contract.review`). Events in the stream have the
fields `type` (queued, started, progress, finished) and `data` (JSON).
"""

from contract import keys
from contract.chain import APPENDING
from contract.job import AnyJob
from contract.outbox import TELL
from contract.result import Status
from contract.review import HOLDING

EVENTS_MAXLEN = 400
EVENTS_TTL_S = 3600
REFUSALS_WINDOW_S = 3600  # in which what is refused to one end user is counted, from the first of it on


def accepted_fields(
    job: AnyJob, rank: int = 1, end_user: str | None = None, webhook_url: str | None = None
) -> dict[str, str]:
    """The record of a job that was just accepted; `contract.acceptance` has the script that writes it."""
    fields = {
        "job": job.model_dump_json(),
        "status": Status.QUEUED.value,
        "attempt": "0",
        "created_at": repr(job.created_at.timestamp()),
    }
    fields |= {
        "tenant": job.tenant,
        "kind": job.kind,
        "queue": job.queue,
        "function": job.function,
        "cost": str(job.cost),
        "rank": str(rank),
        "turns": keys.turns_key(job.queue),
    }
    if end_user is not None:
        fields["end_user"] = end_user
    if webhook_url is not None:
        fields["webhook_url"] = webhook_url
    if job.deadline_at is not None:
        fields["deadline_at"] = repr(job.deadline_at.timestamp())
    return fields


_TENANT = "' .. tenant .. '"  # stands in a key of a script where the tenant's name comes


_COUNT = f"""
local function count(refusals, more)
  local counted = redis.call('INCRBY', refusals, more)
  if redis.call('TTL', refusals) < 0 then redis.call('EXPIRE', refusals, {REFUSALS_WINDOW_S}) end
  return counted
end
"""

# KEYS = an end user's refusals. Counts one more: how many they are in this window, and for how long it lasts.
COUNT_REFUSAL = _COUNT + "return {count(KEYS[1], 1), redis.call('TTL', KEYS[1])}"

_FINISH = f"""
{_COUNT}
local function is_terminal(status) return status ~= 'queued' and status ~= 'running' end
local function emit(kind, data)
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', '{EVENTS_MAXLEN}', '*', 'type', kind, 'data', data)
  redis.call('EXPIRE', KEYS[3], '{EVENTS_TTL_S}')
end
local id = string.sub(KEYS[1], string.find(KEYS[1], 'job:', 1, true) + 4)
local function release(tenant)
  local held = '{keys.in_flight_key(_TENANT)}'
  local cost = redis.call('HGET', held, id)
  if not cost then return end
  redis.call('HDEL', held, id)
  if redis.call('HLEN', held) == 1 then redis.call('DEL', held)
  else redis.call('HINCRBY', held, 'total', '-' .. cost) end
end
local function count_refusals(tenant, end_user, result)
  local blocked = 0
  for _, picture in ipairs(cjson.decode(result).images or {{}}) do
    if picture.verdict == 'blocked' then blocked = blocked + 1 end
  end
  if blocked > 0 then count('{keys.refusals_key(_TENANT, "' .. end_user .. '")}', blocked) end
end
{TELL}
local function finish(status, result, now, ttl, telling)
  local of = redis.call('HMGET', KEYS[1], 'tenant', 'end_user', 'turns', 'attempt', 'cost', 'webhook_url', 'kind',
    'function')
  redis.call('HSET', KEYS[1], 'status', status, 'result', result, 'finished_at', now)
  redis.call('EXPIRE', KEYS[1], ttl)
  redis.call('ZREM', KEYS[2], id)
  if of[1] then release(of[1]) end
  if of[1] and (of[7] or '{keys.PICTURES}') == '{keys.PICTURES}' then
    redis.call('ZADD', '{keys.ended_jobs_key("' .. of[1] .. '")}', now, id)
    redis.call('SADD', '{keys.ENDED}', of[1])
  end
  if of[1] and of[2] then count_refusals(of[1], of[2], result) end
  if of[1] and of[6] then tell('msg_' .. id, of[1], id, of[6], status, telling, now, of[7], of[8]) end
  if of[3] and redis.call('ZREM', of[3], id) == 1 and of[4] == '0' then
    redis.call('HINCRBYFLOAT', of[3] .. ':last', of[1], '-' .. of[5])  -- a turn that was not used costs nothing
  end
  emit('finished', cjson.encode({{status = status}}))
end
"""

# ARGV = now, token of this start (may be left out). A worker takes a popped job: {attempt, job JSON, cancel} when it is
# its to run, else {0, why} with why = 'missing', the terminal status, or 'corrupt' when `attempt` is no count: such a
# job can only be ended. Every start invalidates the attempts before it; sent again with the same token, because its
# reply was lost, it is the same start and answers as the first time.
START = (
    _FINISH
    + """
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'starter')
local status, starter = record[1], ARGV[2] or ''
if not status then return {0, 'missing'} end
if is_terminal(status) then return {0, status} end
if not string.find(record[2] or '0', '^%d+$') or #(record[2] or '') > 9 then return {0, 'corrupt'} end
local turns = redis.call('HGET', KEYS[1], 'turns')
if turns then redis.call('ZREM', turns, id) end
local attempt = tonumber(record[2] or '0')
if starter == '' or record[3] ~= starter or status ~= 'running' then
  attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
  redis.call('HSET', KEYS[1], 'status', 'running', 'started_at', ARGV[1], 'starter', starter)
  emit('started', cjson.encode({attempt = attempt}))
end
return {attempt, redis.call('HGET', KEYS[1], 'job'), redis.call('HGET', KEYS[1], 'cancel') or '0'}
"""
)

# ARGV = attempt, status, result JSON, now, seconds the record is kept, what the webhook is told, and, when there are
# pictures, the entry of the audit that has their verdicts and its SHA-256. 1 when committed; 0 when another attempt or
# a terminal status came first, in which case the caller throws its work away. The verdicts are on record and visible in
# the same moment.
COMMIT = (
    _FINISH
    + APPENDING
    + HOLDING
    + """
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt', 'tenant')
if not record[1] or is_terminal(record[1]) or record[2] ~= ARGV[1] then return 0 end
if ARGV[7] then append(record[3], ARGV[7], ARGV[8]) end
if ARGV[7] then hold(record[3], id, ARGV[3], ARGV[4], ARGV[5]) end
finish(ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
return 1
"""
)

# ARGV = status, result JSON, now, seconds the record is kept. Ends a job that no worker has started (canceled, expired,
# lost). Returns the status found before: 'queued' means it was ended, anything else that nothing was done.
END_QUEUED = (
    _FINISH
    + """
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return 'missing' end
if status == 'queued' then finish(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[2]) end
return status
"""
)

# ARGV as END_QUEUED. Cancels: ends a queued job, asks the worker of a running one. Returns the status found before.
CANCEL = (
    _FINISH
    + """
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return 'missing' end
if status == 'queued' then finish(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[2]) end
if status == 'running' then redis.call('HSET', KEYS[1], 'cancel', '1') end
return status
"""
)
