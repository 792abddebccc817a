"""`make docs` writes Grafana's dashboard from the panels below.

A panel is a title, a unit of Grafana's, what it tells, and its queries with their legends.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "deploy/observability/grafana/seemly.json"
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, ACROSS = 8, 7, 24


@dataclass(frozen=True)
class Panel:
    """One time series panel."""

    title: str
    unit: str
    tells: str
    queries: tuple[tuple[str, str], ...]  # PromQL and its legend


def _rate(metric: str, by: str = "", where: str = "") -> str:
    selected = f"rate({metric}{where}[$__rate_interval])"
    return f"sum by ({by}) ({selected})" if by else f"sum({selected})"


def _mean(histogram: str) -> str:
    return f"{_rate(f'{histogram}_sum')} / {_rate(f'{histogram}_count')}"


def _quantile(share: float, histogram: str, by: str = "") -> str:
    return f"histogram_quantile({share}, {_rate(f'{histogram}_bucket', ', '.join(filter(None, ('le', by))))})"


def _quantiles(histogram: str, by: str = "") -> tuple[tuple[str, str], ...]:
    legend = f" {{{{{by}}}}}" if by else ""
    return tuple((_quantile(share, histogram, by), f"p{share * 100:.0f}{legend}") for share in (0.5, 0.95, 0.99))


_MARGIN, _PADDING = "seemly_worker_safety_score_margin", "seemly_worker_unet_padding_rows_total"
_NOT_FOUND = _rate(f"{_MARGIN}_bucket", "concept", where='{le="0.0"}')
_FOUND = f"1 - {_NOT_FOUND} / {_rate(f'{_MARGIN}_count', 'concept')}"
_WASTE = f"{_rate(_PADDING)} / ({_rate(_PADDING)} + {_rate('seemly_worker_unet_rows_total')})"
_PICTURES, _ERRORS = "seemly_worker_pictures_total", "seemly_worker_picture_errors_total"
_BLOCKED = _rate(_PICTURES, where='{verdict="blocked"}') + f" / {_rate(_PICTURES)}"

ROWS: dict[str, tuple[Panel, ...]] = {
    "Service": (
        Panel(
            "Waiting", "s", "From acceptance to the first step, a worker's start before it; the SLO is p95.",
            _quantiles("seemly_worker_queue_wait_seconds", "queue"),
        ),
        Panel(
            "Unfinished jobs", "none", "Waiting, popped and in flight: what workers are scaled by.",
            (
                ("max by (model) (seemly_queue_waiting)", "waiting {{model}}"),
                ("max by (model) (seemly_queue_popped)", "popped {{model}}"),
                ("max by (model) (seemly_queue_in_flight)", "in flight {{model}}"),
                ("max by (model) (seemly_queue_unfinished)", "all {{model}}"),
            ),
        ),
        Panel(
            "Ready workers", "none", "Workers whose lease runs; 0 with jobs waiting is an alert.",
            (("max by (model) (seemly_workers_ready)", "{{model}}"),),
        ),
        Panel(
            "Jobs by outcome", "reqps", "Committed by all workers. Blocked is a success of the service.",
            ((_rate("seemly_worker_jobs_total", "outcome"), "{{outcome}}"),),
        ),
        Panel(
            "Oldest unfinished job", "s", "Grows without bound when nobody works.",
            (("max by (kind) (seemly_oldest_unfinished_job_seconds)", "{{kind}}"),),
        ),
        Panel(
            "Jobs accepted", "reqps", "By model.", ((_rate("seemly_jobs_accepted_total", "model"), "{{model}}"),),
        ),
    ),
    "Gateway": (
        Panel(
            "Answers by status", "reqps", "All routes.",
            ((_rate("seemly_http_requests_total", "status"), "{{status}}"),),
        ),
        Panel(
            "First byte, p95 by route", "s", "From arrival to the answer's first byte; a preferred wait counts.",
            ((_quantile(0.95, "seemly_http_first_byte_seconds", "route"), "{{route}}"),),
        ),
        Panel(
            "Event streams and waits", "none", "Open now.", (("sum(seemly_event_listeners)", "open"),),
        ),
    ),
    "Engine": (
        Panel(
            "Rows per tick", "none", "Pictures that one step moved.",
            ((_mean("seemly_worker_tick_rows"), "mean"), (_quantile(0.95, "seemly_worker_tick_rows"), "p95")),
        ),
        Panel("A tick", "s", "One step of all pictures in flight.", _quantiles("seemly_worker_tick_seconds")),
        Panel(
            "UNet rows", "reqps", "Rows through the UNet, and those that only filled a call up.",
            ((_rate("seemly_worker_unet_rows_total"), "rows"), (_rate(_PADDING), "padding")),
        ),
        Panel("Padding", "percentunit", "Share of all rows.", ((_WASTE, "padding"),)),
        Panel(
            "Stages, p95", "s", "Where a picture's and a job's time goes.",
            ((_quantile(0.95, "seemly_worker_stage_seconds", "stage"), "{{stage}}"),),
        ),
        Panel(
            "A job by mode, p95", "s", "From start to commit.",
            ((_quantile(0.95, "seemly_worker_job_seconds", "mode"), "{{mode}}"),),
        ),
    ),
    "Safety": (
        Panel("Verdicts", "reqps", "Of pictures.", ((_rate(_PICTURES, "verdict"), "{{verdict}}"),)),
        Panel("Blocked", "percentunit", "Share of pictures.", ((_BLOCKED, "blocked"),)),
        Panel("Found, by concept", "percentunit", "Share of pictures with a score over the threshold.",
              ((_FOUND, "{{concept}}"),)),
        Panel(
            "Score less threshold, median", "none", "A shift without a reason is drift.",
            ((_quantile(0.5, _MARGIN, "concept"), "{{concept}}"),),
        ),
        Panel(
            "Pictures without a verdict", "reqps", "detector_error: withheld, because no detector could judge them.",
            ((_rate(_ERRORS, "code"), "{{code}}"),),
        ),
        Panel(
            "Detectors out of order", "none", "A worker with one takes no jobs.",
            (("max by (instance) (seemly_worker_detectors_in_trouble)", "{{instance}}"),),
        ),
        Panel(
            "Shifted scores", "none", "Concepts whose scores of 24 hours are not as in the week before: GET /drift.",
            (("max by (model) (seemly_drift_shifted_concepts)", "{{model}}"),),
        ),
        Panel("Reviews pending", "none", "Withheld pictures that await a person.",
              (("max(seemly_reviews_pending)", "pending"),)),
        Panel(
            "Oldest pending review", "s", "Past SEEMLY_WITHHELD_KEEP_S the picture is gone undecided.",
            (("max(seemly_oldest_pending_review_seconds)", "age"),),
        ),
        Panel(
            "Corrections and regenerations", "reqps", "Steps corrected by unguidance; pictures made again.",
            (
                (_rate("seemly_worker_corrections_total"), "steps corrected"),
                (_rate("seemly_worker_regenerations_total"), "pictures made again"),
            ),
        ),
    ),
    "Machines": (
        Panel(
            "Memory where the model computes", "bytes", "By tensors, by their pool, all there is.",
            (
                ("max by (instance, kind) (seemly_worker_memory_bytes)", "{{kind}} {{instance}}"),
                ("max by (instance) (seemly_worker_variant_bytes)", "variants {{instance}}"),
            ),
        ),
        Panel(
            "Resident memory", "bytes", "Of every process.",
            (("max by (job, instance) (process_resident_memory_bytes)", "{{job}} {{instance}}"),),
        ),
        Panel(
            "Redis memory", "bytes", "No limit shows as 0.",
            (("max(seemly_redis_memory_bytes)", "used"), ("max(seemly_redis_memory_limit_bytes)", "limit")),
        ),
        Panel(
            "Loading the model", "s", "At the start of each worker.",
            (("max by (instance) (seemly_worker_model_load_seconds)", "{{instance}}"),),
        ),
        Panel(
            "Models served", "none", "Workers by model and weights: two lines of one model mean a roll-out.",
            (("count by (model, weights) (seemly_worker_model_info)", "{{model}} {{weights}}"),),
        ),
        Panel(
            "Trouble", "none", "Per hour: jobs found abandoned, commits too late, Redis commands that failed.",
            (
                ("sum by (end) (increase(seemly_worker_reaped_jobs_total[1h]))", "abandoned, {{end}}"),
                ("sum(increase(seemly_worker_fenced_commits_total[1h]))", "too late"),
                ("sum(increase(seemly_worker_redis_errors_total[1h]))", "Redis errors"),
            ),
        ),
    ),
    "Webhooks": (
        Panel(
            "Attempts", "reqps", "By what became of the delivery.",
            ((_rate("seemly_webhook_attempts_total", "state"), "{{state}}"),),
        ),
        Panel("Delay", "s", "From a job's end to the message's arrival.", _quantiles("seemly_webhook_delay_seconds")),
        Panel(
            "Outstanding", "none", "Waiting, and given up within 30 days.",
            (("max(seemly_webhooks_pending)", "pending"), ("max(seemly_webhooks_dead)", "dead")),
        ),
    ),
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """Grafana's model of the dashboard."""
    return {
        "uid": "seemly",
        "title": "Seemly",
        "tags": ["seemly"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}]
        },
        "panels": list(_laid_out()),
    }


def _laid_out() -> list[dict[str, Any]]:
    laid: list[dict[str, Any]] = []
    y = 0
    for title, panels in ROWS.items():
        laid.append({"type": "row", "title": title, "id": len(laid) + 1, "collapsed": False, "panels": [],
                     "gridPos": {"x": 0, "y": y, "w": ACROSS, "h": 1}})  # fmt: skip
        y += 1
        for place, panel in enumerate(panels):
            down, x = divmod(place * WIDTH, ACROSS)
            laid.append(_drawn(panel, len(laid) + 1, {"x": x, "y": y + down * HEIGHT, "w": WIDTH, "h": HEIGHT}))
        y += HEIGHT * -(-len(panels) * WIDTH // ACROSS)
    return laid


def _drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": DATA_SOURCE, "expr": query, "legendFormat": legend}
        for index, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "type": "timeseries",
        "id": number,
        "title": panel.title,
        "description": panel.tells,
        "datasource": DATA_SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
