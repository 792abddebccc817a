"""`GET /drift` and its metric, over what workers have counted."""

import time
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from contract.drift import HOUR_S, STEP, hour_key
from tests.seemly.processes import eventually
from tests.service import parts
from workers.records import JobRecords


def count(
    redis: "Redis", hours_ago: float, bins: Mapping[int, int], version: str = "1", model: str = parts.MODEL
) -> None:
    key = hour_key(model, time.time() - hours_ago * HOUR_S)
    redis.hset(key, mapping={f"clip-checker|{version}|weapon|{place}": count for place, count in bins.items()})


def by_bin(concept: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {round(one["at"] / STEP): one for one in concept["histogram"]}


@pytest.mark.parametrize("bins", [{4: 300, 5: 300, 6: 300}, {14: 300, 15: 300}], ids=["stays", "moves"])
def test_a_shift_of_the_last_day_against_the_week_before_is_told(
    http: httpx.Client, redis: "Redis", bins: dict[int, int]
) -> None:
    for hours_ago in (30, 60, 150):
        count(redis, hours_ago, {4: 300, 5: 310, 6: 290})
    count(redis, 190 + 24, {14: 90_000})  # before the reference's time
    count(redis, 2, bins)
    query = {"reference_h": 160 + len(bins)}  # another question each time: answers are kept for a minute
    told = http.get("/drift", params=query).json()
    [concept] = told["concepts"]
    moves = 14 in bins
    assert (told["shifted"], concept["shifted"], concept["recent"]) == (moves, moves, sum(bins.values()))
    assert concept["reference"] == 2700
    assert (concept["psi"] > 0.2) is moves
    assert concept["histogram"] == []
    [concept] = http.get("/drift", params={**query, "histograms": True}).json()["concepts"]
    counted = {place: (one["recent"], one["reference"]) for place, one in by_bin(concept).items()}
    assert counted == {
        place: (bins.get(place, 0), {4: 900, 5: 930, 6: 870}.get(place, 0)) for place in {4, 5, 6, *bins}
    }


def test_a_new_version_of_a_detector_begins_anew(http: httpx.Client, redis: "Redis") -> None:
    count(redis, 30, {4: 1000})
    count(redis, 1, {14: 1000}, version="2")
    [concept] = http.get("/drift", params={"recent_h": 23}).json()["concepts"]
    assert (concept["detector_version"], concept["reference"], concept["psi"]) == ("2", 0, None)


def test_the_metric_rises_when_what_workers_make_scores_otherwise(http: httpx.Client, redis: "Redis") -> None:
    """Two models of one past; of one, the pictures of this hour score as before, of the other they do not."""
    job = parts.some_job()
    for model, value in (("steady", 0.11), ("moved", 0.31)):
        parts.announce(redis, parts.model_info(name=model))
        count(redis, 30, {5: 900}, model=model)
        made = [parts.picture(job, 0, concepts=(parts.score(value, detector="clip-checker"),))] * 300
        JobRecords(redis, 60).note_scores(job.model_copy(update={"model": model}), made)

    def shifted() -> dict[str, float]:
        families = text_string_to_metric_families(http.get("/metrics").text)
        [family] = [family for family in families if family.name == "seemly_drift_shifted_concepts"]
        assert {*family.samples[0].labels} == {"model"}  # no tenant, no user: as many series as models
        return {sample.labels["model"]: sample.value for sample in family.samples}

    assert eventually(lambda: {"steady", "moved"} <= shifted().keys())
    assert (shifted()["steady"], shifted()["moved"]) == (0, 1)


@pytest.mark.parametrize(
    "query", [{"recent_h": 0}, {"reference_h": 10_000}, {"model": "none"}, {"since": "now"}, {"histograms": "maybe"}]
)
def test_a_bad_question_is_named(http: httpx.Client, redis: "Redis", query: dict[str, str]) -> None:
    answer = http.get("/drift", params=query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == next(iter(query))
