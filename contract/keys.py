"""Names of queues and keys in Redis. Our own keys share one prefix, so that an access list can name them."""

PREFIX = "seemly:"

MODELS = f"{PREFIX}models"  # hash: model name → ModelInfo as JSON; kept when no worker runs
LABS = f"{PREFIX}labs"  # hash: model name → Lab as JSON; kept when no lab worker runs
READY_WORKERS = f"{PREFIX}workers:ready"  # sorted set: "model|worker" → time at which its lease ends, epoch seconds
ACCEPTED = f"{PREFIX}jobs:accepted"  # sorted set: job id → acceptance, epoch seconds; holds every job not yet terminal
ENDED = f"{PREFIX}jobs:ended"  # set: tenants that have an `ended_jobs_key`
AUDITED = f"{PREFIX}audited"  # set: tenants that have an audit
TENANTS = f"{PREFIX}tenants"  # hash: tenant → `service.limits.TenantLimits` as JSON, where it has its own
POLICIES = f"{PREFIX}policies"  # hash: "id@version" → `contract.policy.Policy` as JSON; none is changed or removed
ASSIGNMENTS = f"{PREFIX}policies:assigned"  # hash: tenant, or `policy.EVERYONE` → `contract.policy.Assignment` as JSON
OWN_POLICY = f"{PREFIX}policies:own"  # string: `contract.job.PolicyRef` of the deployment's own, as JSON
API_KEYS = f"{PREFIX}api-keys"  # hash: key id → `service.api_keys.ApiKey` as JSON; none is ever removed
SERVICE_TIMES = f"{PREFIX}jobs:service-times"  # list, capped: seconds a job took, newest first

SIGNING_SECRETS = f"{PREFIX}webhooks:secrets"  # hash: tenant → its `SigningSecret`s as JSON, oldest first
DELIVERING_TENANTS = f"{PREFIX}webhooks:tenants"  # set: tenants that have webhooks to deliver
PENDING_REVIEWS = f"{PREFIX}reviews:pending"  # sorted set: ids of undecided reviews → when they came up
DEAD_DELIVERIES = f"{PREFIX}webhooks:dead"  # sorted set: ids of deliveries that were given up → when

# kinds of jobs: names of their lists, and told in their records
PICTURES = "jobs"
ERASURES = "erasures"
STANDINGS = "standings"
READINGS = "readings"

# names in a worker's handler table
GENERATE = "generate"  # jobs of POST /generate
COMPARE = "compare"  # jobs of POST /compare
MODERATE = "moderate"  # jobs of POST /moderate
ERASE = "erase"  # jobs of POST /erasures, in a lab's queue
READ = "read"  # texts of POST /moderate
MOVE = "move"  # jobs of POST /variants/…/promote and …/retire


def queue_name(model: str) -> str:
    """The RQ queue of a model. One queue per worker: a worker on several loses popped jobs when it is killed."""
    return f"seemly-{model.replace('/', '--')}"


def lab_queue_name(model: str) -> str:
    """The RQ queue of a model's erasures. No model's own begins like this."""
    return f"lab-{model.replace('/', '--')}"


def job_key(job_id: str) -> str:
    """Hash of a job's record; its fields are those of `contract.record`."""
    return f"{PREFIX}job:{job_id}"


def scores_key(model: str, hour: int) -> str:
    """Hash: `detector|version|concept|bin` → scores of pictures made in that hour since 1970; see `contract.drift`."""
    return f"{PREFIX}scores:{queue_name(model)}:{hour}"


def upload_key(job_id: str, index: int) -> str:
    """String: a picture or text that is to be judged, as it was sent; deleted with the answer, and ends by itself."""
    return f"{PREFIX}upload:{job_id}:{index}"


def events_key(job_id: str) -> str:
    """Stream of a job's events."""
    return f"{PREFIX}events:{job_id}"


def tenant_jobs_key(tenant: str, kind: str = PICTURES) -> str:
    """Sorted set: ids of a tenant's jobs of one kind → acceptance, epoch seconds; an id outlives its record."""
    return f"{PREFIX}tenant:{tenant}:{kind}"


def ended_jobs_key(tenant: str) -> str:
    """Sorted set: ids of a tenant's ended jobs for pictures → end, epoch seconds; until their records are gone."""
    return f"{PREFIX}tenant:{tenant}:ended"


def in_flight_key(tenant: str) -> str:
    """Hash: ids of a tenant's unfinished jobs → cost; `total` → the sum."""
    return f"{PREFIX}tenant:{tenant}:in-flight"


def refusals_key(tenant: str, end_user: str) -> str:
    """String: blocked pictures and refused prompts of an end user, by a digest; it ends with the window it counts."""
    return f"{PREFIX}tenant:{tenant}:refusals:{end_user}"


def idempotency_key(tenant: str, digest: str) -> str:
    """Hash: what came with an Idempotency-Key, and the job that was made of it."""
    return f"{PREFIX}tenant:{tenant}:idempotency:{digest}"


def delivery_key(delivery_id: str) -> str:
    """Hash of a webhook's delivery; its fields are those of `contract.outbox`."""
    return f"{PREFIX}webhook:{delivery_id}"


def due_deliveries_key(tenant: str) -> str:
    """Sorted set: ids of a tenant's pending deliveries → when they are due, epoch seconds."""
    return f"{PREFIX}tenant:{tenant}:webhooks:due"


def tenant_deliveries_key(tenant: str) -> str:
    """Sorted set: ids of a tenant's deliveries → when the job ended, epoch seconds; an id outlives its delivery."""
    return f"{PREFIX}tenant:{tenant}:webhooks"


def audit_key(tenant: str) -> str:
    """Stream: what is on record of a tenant's pictures; its entries are those of `contract.chain`."""
    return f"{PREFIX}tenant:{tenant}:audit"


def audit_head_key(tenant: str) -> str:
    """Hash: `sequence` and `link` of the last entry of a tenant's audit."""
    return f"{audit_key(tenant)}:head"


def review_key(review_id: str) -> str:
    """Hash of a review; its fields are those of `contract.review`."""
    return f"{PREFIX}review:{review_id}"


def tenant_reviews_key(tenant: str) -> str:
    """Sorted set: ids of a tenant's reviews → when they came up, epoch seconds; an id outlives its review."""
    return f"{PREFIX}tenant:{tenant}:reviews"


def turns_key(queue: str) -> str:
    """Sorted set: ids of jobs that wait in a queue → turn."""
    return f"{PREFIX}turns:{queue}"


def last_turns_key(queue: str) -> str:
    """Hash: tenant → end of its last turn; `lowest:` and tenant → the lowest priority that waits."""
    return f"{turns_key(queue)}:last"


def claim_key(model: str, variant: str) -> str:
    """String: id of the latest job that makes this variant of a model."""
    return f"{PREFIX}claim:{model}:{variant}"


def tokenizer_key(sha256: str) -> str:
    """String: the bytes of a `tokenizer.json`."""
    return f"{PREFIX}tokenizer:{sha256}"
