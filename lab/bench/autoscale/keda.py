"""KEDA's rules, and those of the HorizontalPodAutoscaler that it drives (Kubernetes' documentation of `behavior`).

from 0 to 1      KEDA, every `polling_s`, once the metric is over `activation`
from 1 to most   the HPA, every 15 s: ceil(metric / target), nothing within a tenth; upwards the smallest,
                 downwards the largest wish of a stabilisation window, and only so many pods in a period
from 1 to 0      KEDA, once the metric was not over `activation` for `cooldown_s`
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self

HPA_PERIOD_S = 15.0
TOLERANCE = 0.1


@dataclass(frozen=True)
class Pace:
    """How fast one direction may go."""

    stabilization_s: float
    pods: int  # at most so many
    period_s: float  # in so long


@dataclass(frozen=True)
class ScalingRules:
    """A ScaledObject's numbers."""

    target: float  # jobs for each pod
    activation: float
    least: int
    most: int
    polling_s: float
    cooldown_s: float
    up: Pace
    down: Pace

    @classmethod
    def of(cls, scaled_object: dict[str, Any]) -> Self:
        """Those of a `ScaledObject` with one trigger and one policy in each direction.

        Raises:
            KeyError, ValueError: it is written otherwise.
        """
        spec = scaled_object["spec"]
        [trigger] = spec["triggers"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        return cls(
            target=float(trigger["metadata"]["threshold"]),
            activation=float(trigger["metadata"]["activationThreshold"]),
            least=spec["minReplicaCount"],
            most=spec["maxReplicaCount"],
            polling_s=spec["pollingInterval"],
            cooldown_s=spec["cooldownPeriod"],
            up=_pace(behavior["scaleUp"]),
            down=_pace(behavior["scaleDown"]),
        )


def _pace(direction: dict[str, Any]) -> Pace:
    [policy] = direction["policies"]
    if policy["type"] != "Pods":
        raise ValueError(f"a policy of the type {policy['type']!r} is not read; write it in Pods")
    return Pace(direction["stabilizationWindowSeconds"], policy["value"], policy["periodSeconds"])


@dataclass
class Scaler:
    """Decides, over time, how many pods there shall be."""

    rules: ScalingRules
    _wishes: deque[tuple[float, int]] = field(default_factory=deque)
    _changes: list[tuple[float, int]] = field(default_factory=list)
    _last_active: float = 0.0

    def decide(self, now: float, metric: float, pods: int) -> int:
        """The number of pods from now on; asked every `HPA_PERIOD_S`."""
        rules = self.rules
        if metric > rules.activation:
            self._last_active = now
        if pods == 0:
            return max(1, rules.least) if metric > rules.activation else 0
        if rules.least == 0 and now - self._last_active >= rules.cooldown_s:
            self._wishes.clear()
            self._changes.clear()
            return 0
        wish = pods if abs(metric / (rules.target * pods) - 1) <= TOLERANCE else math.ceil(metric / rules.target)
        wanted = min(rules.most, max(1, rules.least, self._stabilized(now, wish, pods)))
        wanted = self._paced(now, wanted, pods)
        if wanted != pods:
            self._changes.append((now, wanted - pods))
        return wanted

    def _stabilized(self, now: float, wish: int, pods: int) -> int:
        up, down = self.rules.up.stabilization_s, self.rules.down.stabilization_s
        self._wishes.append((now, wish))
        while now - self._wishes[0][0] > max(up, down):
            self._wishes.popleft()
        lowest = min(each for at, each in self._wishes if now - at <= up)
        highest = max(each for at, each in self._wishes if now - at <= down)
        return min(max(pods, lowest), highest)

    def _paced(self, now: float, wanted: int, pods: int) -> int:
        up, down = self.rules.up, self.rules.down
        self._changes = [(at, by) for at, by in self._changes if now - at < max(up.period_s, down.period_s)]
        added = sum(by for at, by in self._changes if by > 0 and now - at < up.period_s)
        removed = -sum(by for at, by in self._changes if by < 0 and now - at < down.period_s)
        return max(min(wanted, pods + max(0, up.pods - added)), pods - max(0, down.pods - removed))
