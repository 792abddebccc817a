"""Pictures that await a person lie apart from all others, with a thumbnail, and for longer."""

from pathlib import Path

import numpy as np
from PIL import Image

from contract import keys
from contract.job import Original
from contract.plan import SafetyPlan
from contract.result import Status
from contract.review import review_id
from contract.verdict import Verdict
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import RunningWorker
from tests.workers.lifecycle.paced_engine import PacedEngine


def under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_held_picture_goes_to_the_private_store_and_comes_up_for_review(
    worker: RunningWorker, client: Client, engine: PacedEngine
) -> None:
    plan = SafetyPlan.from_short_form("filter:review")
    wanted = job("a harbour|a weapon", pictures=2, plan=plan, requested="filter:review")
    client.accept(wanted)
    assert client.wait_for([wanted.id]) == {wanted.id: Status.PARTIAL}
    client.assert_ended_once([wanted.id])
    passed, held = client.result(wanted.id).images
    assert (passed.verdict, passed.kept, held.verdict, held.kept) == (Verdict.PASSED, False, Verdict.REVIEW, True)
    assert held.url is None
    private = worker.pictures / ".withheld"
    own = f"{wanted.tenant}/{wanted.id}"
    assert under(private) == {f"{own}/1-1.png", f"{own}/1-1.thumbnail.png"}
    assert [path.name for path in worker.files()] == ["1-0.png"]
    with Image.open(private / own / "1-1.thumbnail.png") as thumbnail:
        assert max(thumbnail.size) <= 64
        assert len(np.unique(np.asarray(thumbnail) // 16)) <= 16
    review = client.redis.hgetall(keys.review_key(review_id(wanted.id, 1)))
    assert (review[b"state"], review[b"cause"], review[b"tenant"]) == (b"waiting", b"held", wanted.tenant.encode())
    assert client.redis.ttl(keys.job_key(wanted.id)) > 6 * 86_400  # a person needs time
    assert client.redis.exists(keys.review_key(review_id(wanted.id, 0))) == 0


def test_a_blocked_picture_is_kept_where_the_policy_says_so(worker: RunningWorker, client: Client) -> None:
    wanted = job("a weapon", keep_blocked=True)
    client.accept(wanted)
    assert client.wait_for([wanted.id]) == {wanted.id: Status.BLOCKED}
    [blocked] = client.result(wanted.id).images
    assert (blocked.verdict, blocked.kept) == (Verdict.BLOCKED, True)
    assert (len(under(worker.pictures / ".withheld")), worker.files()) == (2, [])
    assert client.redis.exists(keys.review_key(review_id(wanted.id, 0))) == 0  # nobody has appealed


def test_a_blocked_picture_is_kept_nowhere(worker: RunningWorker, client: Client) -> None:
    wanted = job("a weapon")
    client.accept(wanted)
    assert client.wait_for([wanted.id]) == {wanted.id: Status.BLOCKED}
    assert under(worker.pictures) == set()
    assert 0 < client.redis.ttl(keys.job_key(wanted.id)) <= 86_400


def test_made_again_a_picture_whose_block_was_overturned_unseen_is_held(worker: RunningWorker, client: Client) -> None:
    """The second is blocked as it was: nobody has overturned that."""
    original = {"job": "0" * 32, "attempt": 1, "weights_sha256": None, "verdicts": (Verdict.BLOCKED,) * 2}
    wanted = job("a weapon", pictures=2, original=Original(**original, overturned=(0,)))
    client.accept(wanted)
    assert client.wait_for([wanted.id]) == {wanted.id: Status.BLOCKED}
    held, blocked = client.result(wanted.id).images
    assert (held.verdict, held.kept, blocked.verdict, blocked.kept) == (Verdict.REVIEW, True, Verdict.BLOCKED, False)
    assert "overturned" in held.reasons[-1]
    assert client.redis.exists(keys.review_key(review_id(wanted.id, 0))) == 1
    assert len(under(worker.pictures / ".withheld")) == 2
