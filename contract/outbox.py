"""The outbox: ends of jobs that are to be told to a webhook, and what became of telling them.

A delivery is a hash (`keys.delivery_key`) that says everything, so that it outlives the job's record:

    id, tenant, job, target    the message's id (`webhook-id`), whose it is, what it is about, where it goes
    kind                       of job, as it stands in its address; of uploads `keys.MODERATE`
    type, status, images, error, created_at    what is told: of the event, as `contract.webhook` words it
    state                      a `DeliveryState`
    claim                      how often a process has taken it; the fencing token of whoever reports a failure
    failures                   of these, since it was last made due by hand; picks the next pause
    attempts, last_at, last_status, last_error    what was tried
    first_at, due_at           of the attempts since then; epoch seconds

Pending ones stand in their tenant's `keys.due_deliveries_key`, by the time at which they are due. Taking one moves that
time past the lease: a process that is killed loses nothing, another takes it then. TELL is part of the script that ends
the job, so there is no moment in which a job is over and nobody knows whom to tell.
"""

from enum import StrEnum

from contract import keys

KEEP_S = 7 * 86_400  # a delivery that needs nobody any more
KEEP_DEAD_S = 30 * 86_400  # one that was given up, and may be sent again by hand
FORGET_S = 60 * 86_400  # ids in a tenant's list


class DeliveryState(StrEnum):
    """What became of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GONE = "gone"  # the receiver answered 410
    DEAD = "dead"  # given up; kept in the list of dead letters


# Part of the scripts that end a job or decide on a picture of it: tell(message's id, …, telling, now, kind of job,
# function). The telling is `contract.detail.telling_of` a result: it has scores no more exactly than the policy lets
# them be told.
TELL = f"""
local function tell(message, tenant, job, target, status, telling, now, kind, what_for)
  local what = cjson.decode(telling)
  local event, told = status, {{}}
  for _, picture in ipairs(what.images or {{}}) do
    -- an empty list would come out as an object
    local reasons = picture.reasons and #picture.reasons > 0 and picture.reasons or nil
    told[#told + 1] = {{index = picture.index, verdict = picture.verdict, reasons = reasons}}
    if picture.verdict == 'review' then event = 'review' end
  end
  redis.call('HSET', '{keys.delivery_key("")}' .. message, 'id', message, 'tenant', tenant, 'job', job,
    'kind', what_for == '{keys.MODERATE}' and what_for or kind or '{keys.PICTURES}',
    'target', target, 'type', 'job.' .. event, 'status', status,
    'images', #told > 0 and cjson.encode(told) or '[]',
    'error', type(what.error) == 'table' and what.error.code or '', 'created_at', now,
    'state', '{DeliveryState.PENDING}', 'due_at', now)
  redis.call('ZADD', '{keys.due_deliveries_key("' .. tenant .. '")}', now, message)
  redis.call('SADD', '{keys.DELIVERING_TENANTS}', tenant)
  local list = '{keys.tenant_deliveries_key("' .. tenant .. '")}'
  redis.call('ZADD', list, now, message)
  redis.call('ZREMRANGEBYSCORE', list, '-inf', tonumber(now) - {FORGET_S})
  redis.call('EXPIRE', list, {FORGET_S})
end
"""
