"""Jobs, pods and a scaler through one day, event by event.

A pod is a worker as it is: it pops as many jobs as it has slots, denoises as many pictures at once as it has room for,
and all of these move together, one step a tick, whose length the cost model tells. One that is to end pops no more and
ends once it is empty. Waiting is counted from a job's acceptance to its first picture's first step, so a place in a pod
that has no room yet counts as waiting.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from lab.bench.autoscale.arrivals import Arrival
from lab.bench.autoscale.cost import CostModel
from lab.bench.autoscale.keda import HPA_PERIOD_S, Scaler, ScalingRules

Metric = Callable[[int, int], int]  # jobs in Redis' list, jobs that workers hold → what is scaled by


def unfinished(waiting: int, held: int) -> int:
    """What `seemly_queue_unfinished` tells."""
    return waiting + held


def backlog(waiting: int, held: int) -> int:
    """The length of the list alone."""
    return waiting


@dataclass(frozen=True)
class Pods:
    """What every pod is like; `slots` and `pictures` as in the worker's settings."""

    cost: CostModel
    start_s: float  # from its creation until it is ready: node, image, model
    slots: int = 32
    pictures: int = 16


@dataclass(frozen=True)
class Day:
    """What came of it."""

    waits_s: NDArray[np.float64]  # of each job, in the order of their first steps
    pod_s: float  # seconds of all pods, from creation to end
    busy_s: float  # of these, seconds in which a pod denoised
    times_s: NDArray[np.float64]  # of the three below
    pods: NDArray[np.int64]
    ready: NDArray[np.int64]
    unfinished: NDArray[np.int64]

    def wait_s(self, share: float) -> float:
        """The quantile of the waits."""
        return float(np.quantile(self.waits_s, share))

    @property
    def pod_hours(self) -> float:
        """What is paid for."""
        return self.pod_s / 3600


@dataclass
class _Pod:
    born: float
    ready_at: float
    is_ending: bool = False
    jobs: int = 0
    rows: int = 0  # of the pictures in flight
    moved: float = 0.0  # ticks since its birth, counted up to `at`
    at: float = 0.0
    busy_s: float = 0.0
    flying: list[tuple[float, int, int]] = field(default_factory=list)  # ends at so many ticks, job, rows
    room_for: deque[tuple[int, int, int]] = field(default_factory=deque)  # job, steps, rows; popped, without room yet
    version: int = 0  # of the next end: an earlier one in the event queue is void


class _Simulation:
    def __init__(self, arrivals: Sequence[Arrival], pods: Pods, scaler: Scaler, metric: Metric, lag_s: float) -> None:
        self._arrivals = arrivals
        self._kind = pods
        self._scaler = scaler
        self._metric = metric
        self._samples: deque[tuple[float, int]] = deque()
        self._lag_s = lag_s
        self._chance = random.Random(0)  # noqa: S311 - no secret; which pod pops a job
        self._queue: deque[int] = deque()
        self._pods: list[_Pod] = []
        self._left = [arrival.pictures for arrival in arrivals]
        self._waits: list[float] = []
        self._held = 0
        self._pod_s = self._busy_s = 0.0
        self._timeline: list[tuple[float, int, int, int]] = []
        self._events: list[tuple[float, int, str, _Pod | None, int]] = []
        self._order = count()
        self._ended = 0

    def run(self) -> Day:
        next_arrival = 0
        for _ in range(self._scaler.rules.least):
            self._create(-self._kind.start_s)
        self._schedule(0.0, "scale")
        while self._ended < len(self._arrivals):
            soon = self._arrivals[next_arrival].at if next_arrival < len(self._arrivals) else float("inf")
            if soon <= self._events[0][0]:
                self._queue.append(next_arrival)
                next_arrival += 1
                self._pop(soon)
                continue
            now, _, what, pod, version = heapq.heappop(self._events)
            if what == "scale":
                self._scale(now)
            elif what == "ready":
                self._pop(now)
            elif pod is not None and version == pod.version:
                self._land(now, pod)
        for pod in self._pods:
            self._pay(pod, now)
        times, pods, ready, jobs = zip(*self._timeline, strict=True)
        return Day(
            np.array(self._waits), self._pod_s, self._busy_s,
            np.array(times), np.array(pods), np.array(ready), np.array(jobs),
        )  # fmt: skip

    def _schedule(self, at: float, what: str, pod: _Pod | None = None) -> None:
        heapq.heappush(self._events, (at, next(self._order), what, pod, pod.version if pod else 0))

    # Pods

    def _create(self, now: float) -> None:
        pod = _Pod(born=max(0.0, now), ready_at=now + self._kind.start_s, at=max(0.0, now))
        self._pods.append(pod)
        self._schedule(pod.ready_at, "ready")

    def _pay(self, pod: _Pod, now: float) -> None:
        self._pod_s += now - pod.born
        self._busy_s += pod.busy_s

    def _scale(self, now: float) -> None:
        staying = [pod for pod in self._pods if not pod.is_ending]
        self._samples.append((now, self._metric(len(self._queue), self._held)))
        while len(self._samples) > 1 and self._samples[1][0] <= now - self._lag_s:
            self._samples.popleft()
        wanted = self._scaler.decide(now, self._samples[0][1], len(staying))
        for _ in range(wanted - len(staying)):
            self._create(now)
        for pod in sorted(staying, key=lambda one: one.ready_at)[wanted:]:  # the newest first, as a ReplicaSet does
            pod.is_ending = True
            self._leave(now, pod)
        ready = sum(pod.ready_at <= now and not pod.is_ending for pod in self._pods)
        self._timeline.append((now, len(self._pods), ready, len(self._queue) + self._held))
        self._schedule(now + HPA_PERIOD_S, "scale")

    def _leave(self, now: float, pod: _Pod) -> None:
        if pod.is_ending and pod.jobs == 0:
            self._pods.remove(pod)
            self._pay(pod, now)

    # Jobs

    def _pop(self, now: float) -> None:
        """Waiting jobs to pods with free slots, whichever comes first."""
        while self._queue:
            free = [
                pod for pod in self._pods
                if pod.ready_at <= now and not pod.is_ending and pod.jobs < self._kind.slots
            ]  # fmt: skip
            if not free:
                return
            pod, job = self._chance.choice(free), self._queue.popleft()
            arrival = self._arrivals[job]
            pod.jobs += 1
            self._held += 1
            pod.room_for.extend([(job, arrival.steps, arrival.rows)] * arrival.pictures)
            self._move(now, pod)
            self._admit(now, pod)

    def _move(self, now: float, pod: _Pod) -> None:
        """Bring the pod's ticks up to now."""
        if pod.flying:
            pod.moved += (now - pod.at) / self._kind.cost.tick_s(pod.rows)
            pod.busy_s += now - pod.at
        pod.at = now

    def _admit(self, now: float, pod: _Pod) -> None:
        while pod.room_for and len(pod.flying) < self._kind.pictures:
            job, steps, rows = pod.room_for.popleft()
            if self._left[job] > 0:
                self._waits.append(now - self._arrivals[job].at)
                self._left[job] *= -1  # begun; counted up to 0 from here
            heapq.heappush(pod.flying, (pod.moved + steps, job, rows))
            pod.rows += rows
        pod.version += 1
        if pod.flying:
            due = max(0.0, pod.flying[0][0] - pod.moved)
            self._schedule(now + due * self._kind.cost.tick_s(pod.rows), "land", pod)

    def _land(self, now: float, pod: _Pod) -> None:
        """The pictures whose last step this is."""
        self._move(now, pod)
        while pod.flying and pod.flying[0][0] <= pod.moved + 1e-6:
            _, job, rows = heapq.heappop(pod.flying)
            pod.rows -= rows
            self._left[job] += 1
            if self._left[job] == 0:
                pod.jobs -= 1
                self._held -= 1
                self._ended += 1
        self._admit(now, pod)
        self._leave(now, pod)
        self._pop(now)


def simulate(
    arrivals: Sequence[Arrival], pods: Pods, rules: ScalingRules, metric: Metric = unfinished, lag_s: float = 0
) -> Day:
    """The whole day, and until its last job is done.

    Args:
        lag_s: how old the metric is when the scaler reads it
    """
    return _Simulation(arrivals, pods, Scaler(rules), metric, lag_s).run()
