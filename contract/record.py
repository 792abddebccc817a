"""A job's record in Redis and the only ways it may change.

The record is a hash (`keys.job_key`):

    job          the Job, as JSON
    status       a `Status`
    attempt      how often a worker has started it; 0 while queued. The fencing token of every commit
    starter      token of the start that made this attempt, so that one sent twice counts once; absent without one
    cancel       "1" once a cancellation of a running job was asked for
    created_at, started_at, finished_at, deadline_at    epoch seconds; absent when not yet, or never
    result       the Result, as JSON, once terminal

Each change is one Lua script, so no two processes can disagree about it. Every script takes
KEYS = record, `keys.ACCEPTED`, events stream; a terminal status is never left again. Events in the stream have the
fields `type` (queued, started, progress, finished) and `data` (JSON).
"""

from contract.job import Job
from contract.result import Status

EVENTS_MAXLEN = 400
EVENTS_TTL_S = 3600


def accepted_fields(job: Job) -> dict[str, str]:
    """The record of a job that was just accepted.

    Acceptance is one MULTI, not a script: these fields, ZADD to `keys.ACCEPTED`, the `queued` event, RQ's own enqueue.
    """
    fields = {
        "job": job.model_dump_json(),
        "status": Status.QUEUED.value,
        "attempt": "0",
        "created_at": repr(job.created_at.timestamp()),
    }
    if job.deadline_at is not None:
        fields["deadline_at"] = repr(job.deadline_at.timestamp())
    return fields


_FINISH = f"""
local function is_terminal(status) return status ~= 'queued' and status ~= 'running' end
local function emit(kind, data)
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', '{EVENTS_MAXLEN}', '*', 'type', kind, 'data', data)
  redis.call('EXPIRE', KEYS[3], '{EVENTS_TTL_S}')
end
local function finish(status, result, now, ttl)
  redis.call('HSET', KEYS[1], 'status', status, 'result', result, 'finished_at', now)
  redis.call('EXPIRE', KEYS[1], ttl)
  redis.call('ZREM', KEYS[2], string.sub(KEYS[1], string.find(KEYS[1], 'job:', 1, true) + 4))
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
local attempt = tonumber(record[2] or '0')
if starter == '' or record[3] ~= starter or status ~= 'running' then
  attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
  redis.call('HSET', KEYS[1], 'status', 'running', 'started_at', ARGV[1], 'starter', starter)
  emit('started', cjson.encode({attempt = attempt}))
end
return {attempt, redis.call('HGET', KEYS[1], 'job'), redis.call('HGET', KEYS[1], 'cancel') or '0'}
"""
)

# ARGV = attempt, status, result JSON, now, seconds the record is kept. 1 when committed; 0 when another attempt or a
# terminal status came first, in which case the caller throws its work away.
COMMIT = (
    _FINISH
    + """
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt')
if not record[1] or is_terminal(record[1]) or record[2] ~= ARGV[1] then return 0 end
finish(ARGV[2], ARGV[3], ARGV[4], ARGV[5])
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
if status == 'queued' then finish(ARGV[1], ARGV[2], ARGV[3], ARGV[4]) end
return status
"""
)

# ARGV as END_QUEUED. Cancels: ends a queued job, asks the worker of a running one. Returns the status found before.
CANCEL = (
    _FINISH
    + """
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return 'missing' end
if status == 'queued' then finish(ARGV[1], ARGV[2], ARGV[3], ARGV[4]) end
if status == 'running' then redis.call('HSET', KEYS[1], 'cancel', '1') end
return status
"""
)
