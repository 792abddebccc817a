"""Jobs under erased weights, through Redis and the worker."""

from pathlib import Path
from threading import Semaphore

import numpy as np
from PIL import Image

from contract import keys
from contract.model import ModelInfo
from contract.plan import SafetyPlan
from contract.result import Status
from tests import engines
from tests.redis_server import RedisServer
from tests.seemly.processes import eventually
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import working
from tests.workers.variants.conftest import write
from workers.engine.engine import Engine, EngineLimits
from workers.engine.picture import PictureSpec, Tick
from workers.models import LoadedModel
from workers.variants.shelf import VariantShelf

SIZE = {"model": "tiny", "width": 32, "height": 32}


def erased(name: str) -> SafetyPlan:
    return SafetyPlan.from_short_form(f"erased:{name}")


def announced(client: Client) -> set[str]:
    info = ModelInfo.model_validate_json(client.redis.hget(keys.MODELS, "tiny"))
    return {variant.name for variant in info.variants}


class HeldEngine(Engine):
    """Makes a step for each turn it is given, and tells what it was given and moved."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model.parts, model.methods, EngineLimits(pictures_in_flight=64), self._hold)
        self.turns = Semaphore(0)
        self.submitted = 0
        self.moved: list[int] = []  # pictures, by step

    def submit(self, *specs: PictureSpec) -> None:
        super().submit(*specs)
        self.submitted += len(specs)

    def _hold(self, tick: Tick) -> None:
        self.moved.append(tick.pictures)
        assert self.turns.acquire(timeout=25)


def test_a_variant_loaded_among_fifty_requests_disturbs_none(
    server: RedisServer, client: Client, tmp_path: Path, model: LoadedModel
) -> None:
    folder = tmp_path / "variants"
    shelf = VariantShelf(folder, model.parts, model.info.weights_sha256, 1 << 30)
    plain = [job(f"a cat {number}", steps=6, plan=SafetyPlan(), **SIZE) for number in range(50)]
    late = [job("a cat", steps=3, plan=erased("attention"), **SIZE) for _ in range(3)]
    ids = [wanted.id for wanted in [*plain, *late]]
    engine = HeldEngine(model)
    for wanted in plain:
        client.accept(wanted)
    with working(server, tmp_path, engine, model, shelf, slots=64) as worker:
        assert eventually(lambda: engine.submitted == 50)
        assert announced(client) == set()
        engine.turns.release()
        assert eventually(lambda: engine.moved[-1:] == [50])
        write(folder / "attention", model)
        for wanted in late:
            client.accept(wanted)
        assert eventually(lambda: engine.submitted == 53)
        engine.turns.release(100)
        assert set(client.wait_for(ids).values()) == {Status.SUCCEEDED}
        client.assert_ended_once(ids)
        assert eventually(lambda: announced(client) == {"attention"})
    assert engine.moved[2] == 53
    for wanted in [*plain[::10], *late]:
        variants = {"attention": shelf.get("attention")}
        [alone] = engines.run(engines.engine(model), PictureSpec.all_of(wanted, variants))
        with Image.open(worker.pictures / wanted.tenant / wanted.id / "1-0.png") as stored:
            assert np.abs(np.asarray(stored).astype(int) - alone.pixels).max() <= 1
    applied = client.result(late[0].id).safety.applied["weights"]
    assert (applied["variant"], applied["changes"]) == ("attention", "attn2_only")


def test_a_damaged_variant_fails_its_jobs_with_the_reason(
    server: RedisServer, client: Client, tmp_path: Path, model: LoadedModel, shelf: VariantShelf
) -> None:
    file = tmp_path / "variants" / "keys-1" / "variant.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    jobs = [job(plan=erased(name), **SIZE) for name in ("keys-1", "keys-2", "gone")]
    with working(server, tmp_path, engines.engine(model), model, shelf):
        for wanted in jobs:
            client.accept(wanted)
        ended = client.wait_for([wanted.id for wanted in jobs])
    assert [ended[wanted.id] for wanted in jobs] == [Status.FAILED, Status.SUCCEEDED, Status.FAILED]
    errors = [client.result(wanted.id).error for wanted in jobs]
    assert [error and error.code for error in errors] == ["unusable_variant", None, "unusable_variant"]
    assert errors[0].message.startswith("keys-1/variant.safetensors is truncated or damaged")
    assert str(tmp_path) not in "".join(error.message for error in errors if error)


def test_a_variant_that_finds_no_memory_waits_for_the_pictures_that_hold_it(
    server: RedisServer, client: Client, tmp_path: Path, model: LoadedModel, shelf: VariantShelf
) -> None:
    shelf.get("all")
    tight = VariantShelf(tmp_path / "variants", model.parts, model.info.weights_sha256, shelf.held_bytes)
    jobs = [job(plan=erased(name), **SIZE) for name in ("all", "rest", "keys-1", "all")]
    with working(server, tmp_path, engines.engine(model), model, tight):
        for wanted in jobs:
            client.accept(wanted)
        assert set(client.wait_for([wanted.id for wanted in jobs]).values()) == {Status.SUCCEEDED}
        assert tight.held_bytes <= shelf.held_bytes
    assert [client.result(wanted.id).safety.applied["weights"]["variant"] for wanted in jobs] == [
        "all",
        "rest",
        "keys-1",
        "all",
    ]
