"""The shipped rules against scaling by the backlog alone, on the same day, at several targets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from lab.bench.autoscale.arrivals import Arrival, day, mean_row_steps
from lab.bench.autoscale.cost import ROWS_OF_A_CALL, CostModel
from lab.bench.autoscale.keda import Pace, ScalingRules
from lab.bench.autoscale.simulation import Day, Pods, backlog, simulate, unfinished

SLO_WAIT_S = 30.0  # p95, from acceptance on; alerts.yaml warns of the same
SCRAPE_LAG_S = 15.0  # Prometheus' own interval; whoever reads the list's length in Redis has none
BACKLOG_TARGETS = (1, 4, 16)

# What k8s/ ships; a test compares the two.
SHIPPED = ScalingRules(
    target=4,
    activation=0,
    least=0,
    most=20,
    polling_s=15,
    cooldown_s=600,
    up=Pace(stabilization_s=0, pods=4, period_s=15),
    down=Pace(stabilization_s=300, pods=1, period_s=60),
)


@dataclass(frozen=True)
class Scenario:
    """A day, and the pods that it meets."""

    cost: CostModel
    mean_pods: float = 3  # how many pods the mean of the day keeps busy, bursts apart
    hours: float = 24
    start_s: float = 90
    seed: int = 1

    @property
    def jobs_per_s(self) -> float:
        """What one pod does at most, of the mix."""
        return ROWS_OF_A_CALL / (mean_row_steps() * self.cost.tick_s(ROWS_OF_A_CALL))

    @property
    def arrivals(self) -> list[Arrival]:
        """The day's jobs."""
        return day(self.mean_pods * self.jobs_per_s, self.hours * 3600, self.seed)


@dataclass(frozen=True)
class Row:
    """One way to scale, and what came of it."""

    name: str
    came: Day

    @property
    def keeps_slo(self) -> bool:
        """Whether nineteen jobs of twenty begin in time."""
        return self.came.wait_s(0.95) <= SLO_WAIT_S


def compare(scenario: Scenario, rules: ScalingRules = SHIPPED) -> list[Row]:
    """The rules by unfinished jobs, then by the backlog; with a pod that always stays, since an empty list says nothing
    of the jobs in flight, and with a reading that is never old."""
    arrivals, pods = scenario.arrivals, Pods(scenario.cost, scenario.start_s)
    shipped = Row(f"unfinished, {rules.target:g} a pod", simulate(arrivals, pods, rules, unfinished, SCRAPE_LAG_S))
    others = [
        Row(
            f"backlog, {target} a pod",
            simulate(arrivals, pods, replace(rules, target=target, least=max(1, rules.least)), backlog),
        )
        for target in BACKLOG_TARGETS
    ]
    return [shipped, *others]


def draw(rows: Sequence[Row], scenario: Scenario) -> Figure:
    """Unfinished jobs and pods over the day, and the cost of each way against its wait."""
    shipped, other = rows[0], min(rows[1:], key=lambda row: row.came.wait_s(0.95))
    figure = Figure(figsize=(10, 8), layout="constrained")
    jobs, pods, plane = figure.subplots(3, 1, height_ratios=(2, 2, 3))
    for row, colour in ((shipped, "#1b6ca8"), (other, "#d1495b")):
        hours = row.came.times_s / 3600
        jobs.plot(hours, row.came.unfinished, color=colour, linewidth=0.8, label=row.name)
        pods.step(hours, row.came.pods, color=colour, linewidth=1, where="post", label=row.name)
    jobs.set(ylabel="unfinished jobs", yscale="symlog", xlim=(0, scenario.hours))
    pods.set(ylabel="pods", xlabel="hours", xlim=(0, scenario.hours))
    jobs.legend(loc="upper left", frameon=False)
    for row in rows:
        cost, wait = row.came.pod_hours, row.came.wait_s(0.95)
        plane.scatter(cost, wait, color="#1b6ca8" if row is shipped else "#d1495b", zorder=2)
        plane.annotate(row.name, (cost, wait), xytext=(6, 4), textcoords="offset points", fontsize=8)
    plane.margins(x=0.2, y=0.15)
    plane.axhline(SLO_WAIT_S, color="grey", linestyle="--", linewidth=1, zorder=1)
    plane.annotate("SLO", (plane.get_xlim()[0], SLO_WAIT_S), xytext=(4, 3), textcoords="offset points", color="grey")
    plane.set(xlabel="pod hours", ylabel="p95 of the wait", ylim=(0, None))
    plane.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
    figure.suptitle(
        f"A day of {len(shipped.came.waits_s)} jobs; a pod does {scenario.jobs_per_s:.2f} a second,"
        f" and starts in {scenario.start_s:g} s"
    )
    return figure


def figures(row: Row) -> dict[str, float | str | bool]:
    """What is told of a row."""
    came = row.came
    waits = {f"wait_p{share * 100:g}_s": round(came.wait_s(share), 2) for share in (0.5, 0.95, 0.99)}
    return {
        "name": row.name,
        "jobs": len(came.waits_s),
        **waits,
        "waited_over_slo": round(float(np.mean(came.waits_s > SLO_WAIT_S)), 4),
        "keeps_slo": row.keeps_slo,
        "pod_hours": round(came.pod_hours, 2),
        "busy": round(came.busy_s / came.pod_s, 3),
        "most_pods": int(came.pods.max()),
    }
