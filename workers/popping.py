"""How jobs leave their queue: into RQ's intermediate one, where each lies until its lease alone holds it."""

from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DequeueTimeout, NoSuchJobError
from rq.serializers import JSONSerializer

from contract import keys
from contract.acceptance import PLACES_WITHOUT_TURN
from workers.rq_disarmed import InertJob, NoDeathPenalty

DEQUEUE_TIMEOUT_S = 1

# KEYS = queue, intermediate queue; ARGV = function. Pops as RQ does, but only what asks for this, near the front.
_POP_FIRST = f"""
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, {PLACES_WITHOUT_TURN - 1})) do
  if redis.pcall('HGET', '{keys.job_key("")}' .. id, 'function') == ARGV[1] then
    redis.call('LREM', KEYS[1], 1, id)
    redis.call('RPUSH', KEYS[2], id)
    return id
  end
end
"""


class Unreadable(Exception):
    """A job was popped whose hash RQ cannot read."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id


def pop(queue: Queue, only: str | None = None) -> InertJob | None:
    """The next job; None when there is none.

    Args:
        only: the function of those that go first; such a one is not waited for. null: any job

    Raises:
        Unreadable: the job's hash makes no sense; its id stays in the intermediate queue until `discard`.
        RedisError: it does not answer.
    """
    return _pop_next(queue) if only is None else _pop_first(queue, only)


def discard(queue: Queue, job_id: str) -> None:
    """Drop a popped id that nobody is to run."""
    queue.connection.lrem(queue.intermediate_queue_key, 1, job_id)


def _pop_next(queue: Queue) -> InertJob | None:
    try:
        popped = Queue.dequeue_any(
            [queue],
            DEQUEUE_TIMEOUT_S,
            connection=queue.connection,
            job_class=InertJob,
            serializer=JSONSerializer,
            death_penalty_class=NoDeathPenalty,
        )
    except DequeueTimeout:
        return None
    except RedisError:
        raise
    except Exception as error:
        job_id = getattr(error, "job_id", None)  # noted by RQ where it is the job that cannot be read
        if job_id is None:
            raise
        raise Unreadable(job_id) from None
    return popped[0] if popped is not None else None


def _pop_first(queue: Queue, function: str) -> InertJob | None:
    places = queue.key, queue.intermediate_queue_key
    popped: bytes | None = queue.connection.eval(_POP_FIRST, 2, *places, function)
    if popped is None:
        return None
    job_id = popped.decode()
    try:
        return InertJob.fetch(job_id, connection=queue.connection, serializer=JSONSerializer)
    except NoSuchJobError:
        return None
    except RedisError:
        raise
    except Exception:  # noqa: BLE001 - whatever a hash may hold
        raise Unreadable(job_id) from None
