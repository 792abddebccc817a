"""A job's explanation as a figure: one block per picture, side by side what was seen, pushed and found.

    curves     every concept's score over the steps, the threshold, where a correction was made and how long its
               gradient was
    guidance   how strong the guidance's push was at each step, and on what share of the latent
    bars       the finished picture's scores against their thresholds

No picture's pixels are on it.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from contract.steps import GuidanceRecord, PerStep
from contract.verdict import Verdict
from service.explanation.lettering import DPI, cut, font
from service.explanation.panels import Bars, Block, Explanation, Limits

PANEL_PX, BLOCK_PX = 560, 392
HEAD_PX, TITLE_PX, FOOT_PX = 84, 92, 46
LEFT_PX, RIGHT_PX = 58, 152  # of a panel, for the axis and for the labels
NAMES_PX = 148  # of the bars, for the concepts' names
GAP_PX = 12
LABEL_PX = 12

PAPER, INK, FAINT, RULE, BAND = "#fbfaf7", "#22262b", "#5f656c", "#dcdad4", "#e9e7e1"
# Okabe and Ito's colours, which are told apart with any kind of colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
CORRECTED = "#f8ecd0"
CALM, FLAGGED = "#0072b2", "#d55e00"
VERDICTS = {
    Verdict.PASSED: "#1f7a4d",
    Verdict.BLOCKED: "#b3261e",
    Verdict.REVIEW: "#9a6700",
    Verdict.ERROR: "#5f656c",
}


def png(explanation: Explanation) -> bytes:
    """The figure as a file."""
    canvas = FigureCanvasAgg(figure(explanation))
    file = io.BytesIO()
    canvas.print_png(file, metadata={"Software": None})
    return file.getvalue()


def figure(explanation: Explanation) -> Figure:
    """The figure; every axes is labelled `<picture's index> <what it shows>`."""
    panels, blocks = explanation.panels, explanation.blocks
    across = min(len(blocks), max(1, 3 // len(panels)))
    width = PANEL_PX * len(panels) * across
    height = HEAD_PX + BLOCK_PX * -(-len(blocks) // across)
    drawn = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    page = _Page(drawn, width, height)
    job = explanation.job
    compared = f"{len(job.comparison)} plans" if job.comparison else ""
    methods = compared or " + ".join(explanation.methods) or "plain"
    page.write(GAP_PX + 4, 16, f"{methods}, {job.status.value}", 20, width - 2 * GAP_PX)
    safety = job.comparison[0].safety if job.comparison else job.safety
    model = f"model {safety.model}, " if safety else ""
    steps = f"{job.metrics.steps} steps, " if job.metrics else ""
    page.write(GAP_PX + 4, 50, f"{model}{steps}job {job.id}", 13, width - 2 * GAP_PX, colour=FAINT)
    for number, block in enumerate(blocks):
        left = (number % across) * PANEL_PX * len(panels)
        top = HEAD_PX + (number // across) * BLOCK_PX
        _draw_heading(page, left, top, PANEL_PX * len(panels), block)
        for panel, kind in enumerate(panels):
            corner = (left + panel * PANEL_PX, top + TITLE_PX)
            match kind:
                case "curves":
                    _draw_curves(page, corner, block, explanation.limits)
                case "guidance":
                    _draw_guidance(page, corner, block, explanation.limits)
                case _:
                    _draw_bars(page, corner, block, explanation.limits)
    return drawn


@dataclass(frozen=True)
class _Page:
    """A figure measured in pixels from its upper left corner."""

    figure: Figure
    width: int
    height: int

    def write(self, x: float, y: float, text: str, size_px: float, width_px: float, **style: Any) -> None:
        """One line of text, cut to its width; `y` is its top."""
        shown = cut(text, width_px, size_px)
        colour = style.pop("colour", INK)
        self.figure.text(
            x / self.width, 1 - y / self.height, shown, fontproperties=font(size_px), color=colour, va="top",
            parse_math=False, **style,
        )  # fmt: skip

    def axes(self, label: str, x: float, y: float, width_px: float, height_px: float) -> Axes:
        """Bare axes; x and y of their upper left corner."""
        bounds = (x / self.width, 1 - (y + height_px) / self.height, width_px / self.width, height_px / self.height)
        axes = self.figure.add_axes(bounds, label=label, facecolor="none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(RULE)
        axes.tick_params(labelsize=11 * 72 / DPI, labelcolor=FAINT, color=RULE, labelfontfamily="DejaVu Sans")
        axes.locator_params(nbins=5)
        return axes


def _draw_heading(page: _Page, left: float, top: float, width_px: float, block: Block) -> None:
    picture = block.picture
    rule = page.axes("rule", left + GAP_PX, top, width_px - 2 * GAP_PX, 1)
    rule.set_axis_off()
    rule.axhline(0, color=RULE)
    colour = VERDICTS[picture.verdict]
    page.write(left + GAP_PX + 4, top + 10, picture.verdict.value, 15, 100, colour=colour)
    page.write(left + GAP_PX + 92, top + 10, f"{block.name}, seed {picture.seed}", 15, width_px - 120)
    why = picture.error.message if picture.error else next(iter(picture.reasons), "")
    page.write(left + GAP_PX + 4, top + 33, why, 12, width_px - 3 * GAP_PX, colour=FAINT)


def _draw_curves(page: _Page, corner: tuple[float, float], block: Block, limits: Limits) -> None:
    curves = block.curves
    if curves is None:
        return
    record, (x, y) = curves.record, corner
    index, width = block.picture.index, PANEL_PX - LEFT_PX - RIGHT_PX
    steps = max(map(len, record.scores.values()), default=0)
    told = (
        f"corrected at {len(record.corrected_steps)} of {steps} steps" if record.corrected_steps else "never corrected"
    )
    page.write(x + GAP_PX + 4, y - 36, "Concept scores while denoising", 13, PANEL_PX - 2 * GAP_PX)
    page.write(x + GAP_PX + 4, y - 18, told, 12, PANEL_PX - 2 * GAP_PX, colour=FAINT)
    above = page.axes(f"{index} scores", x + LEFT_PX, y + 6, width, 166)
    below = page.axes(f"{index} gradient norm", x + LEFT_PX, y + 190, width, 56)
    for axes in (above, below):
        axes.set_xlim(-0.5, max(1, limits.steps) - 0.5)
        spans = [(step - 0.5, 1) for step in record.corrected_steps]
        axes.broken_barh(
            spans, (0, 1), transform=axes.get_xaxis_transform(), color=CORRECTED, linewidth=0, label="corrected"
        )
    above.set_ylim(*limits.scores)
    above.tick_params(labelbottom=False)
    if curves.others:
        low, high = (tuple(pair[i] for pair in curves.others) for i in range(2))
        above.fill_between(range(len(low)), _gapped(low), _gapped(high), color=BAND, label="others", linewidth=0)
    above.axhline(record.threshold, color=INK, linestyle=(0, (4, 3)), linewidth=1.2, label="threshold")
    labels = [(record.threshold, f"threshold {record.threshold:.3g}", INK)]
    for colour, (name, scores) in zip(COLOURS, curves.shown.items(), strict=False):
        above.plot(range(len(scores)), _gapped(scores), color=colour, linewidth=1.8, label=name)
        if (last := next((score for score in reversed(scores) if score is not None), None)) is not None:
            labels.append((last, name, colour))
    if curves.others and curves.others[-1][0] is not None and curves.others[-1][1] is not None:
        others = (curves.others[-1][0] + curves.others[-1][1]) / 2
        labels.append((others, f"{curves.left_out} more", FAINT))
    _label_right(page, above, labels)
    norms = _gapped(record.gradient_norms)
    below.bar(record.corrected_steps, norms, width=0.7, color=INK, label="gradient norm")
    below.set_ylim(0, limits.gradient * 1.1 or 1)
    below.locator_params(axis="y", nbins=2)
    _label_right(page, below, [(below.get_ylim()[1] / 2, "gradient norm", INK)], leaders=False)
    page.write(x + LEFT_PX, y + FOOT_PX + 222, "step", 11, 60, colour=FAINT)


def _draw_guidance(page: _Page, corner: tuple[float, float], block: Block, limits: Limits) -> None:
    record = block.guidance
    if record is None:
        return
    x, y = corner
    index, width = block.picture.index, PANEL_PX - LEFT_PX - RIGHT_PX
    page.write(x + GAP_PX + 4, y - 36, "The guidance's push", 13, PANEL_PX - 2 * GAP_PX)
    page.write(x + GAP_PX + 4, y - 18, _when_pushed(record), 12, PANEL_PX - 2 * GAP_PX, colour=FAINT)
    above = page.axes(f"{index} push", x + LEFT_PX, y + 6, width, 112)
    below = page.axes(f"{index} share", x + LEFT_PX, y + 134, width, 112)
    shares: PerStep = tuple(None if share is None else 100 * share for share in record.share)
    for axes, values, top, label in (
        (above, record.push, limits.push * 1.1 or 1.0, "mean |γ|"),
        (below, shares, 105.0, "% of elements\nover the mask"),
    ):
        axes.set_xlim(-0.5, max(1, limits.steps) - 0.5)
        axes.set_ylim(0, top)
        axes.fill_between(range(len(values)), _gapped(values), color=COLOURS[0], alpha=0.18, step="mid", linewidth=0)
        axes.plot(
            range(len(values)), _gapped(values), color=COLOURS[0], linewidth=1.8, drawstyle="steps-mid", label=label
        )
        for line, text in enumerate(label.split("\n")):
            place = (axes.get_position().x1 * page.width + 10, y + (48 if axes is above else 176) + 15 * line)
            page.write(*place, text, LABEL_PX, RIGHT_PX - 20)
    above.tick_params(labelbottom=False)
    page.write(x + LEFT_PX, y + FOOT_PX + 222, "step", 11, 60, colour=FAINT)


def _draw_bars(page: _Page, corner: tuple[float, float], block: Block, limits: Limits) -> None:
    bars = block.bars
    if bars is None:
        return
    x, y = corner
    page.write(
        x + GAP_PX + 4, y - 36, "The finished picture's scores against their thresholds", 13, PANEL_PX - 2 * GAP_PX
    )
    page.write(x + GAP_PX + 4, y - 18, _what_is_left_out(bars), 12, PANEL_PX - 2 * GAP_PX, colour=FAINT)
    width = PANEL_PX - NAMES_PX - RIGHT_PX
    axes = page.axes(f"{block.picture.index} final scores", x + NAMES_PX, y + 6, width, 240)
    axes.set_xlim(*limits.final)
    axes.set_ylim(7.6, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=RULE, linewidth=1)
    for line, score in enumerate(bars.shown):
        colour = FLAGGED if score.flagged else CALM
        axes.barh(line, score.score, height=0.56, color=colour, label=score.name)
        axes.plot([score.threshold] * 2, [line - 0.42, line + 0.42], color=INK, linewidth=2, label="threshold")
        middle = y + 6 + 240 * (line + 0.6) / 8.2
        page.write(x + NAMES_PX - 8, middle - 8, score.name, LABEL_PX, NAMES_PX - 24, ha="right")
        told = f"{score.margin:+.3f}" + (" flagged" if score.flagged else "")
        page.write(x + NAMES_PX + width + 12, middle - 8, told, LABEL_PX, RIGHT_PX - 20, colour=colour)
    page.write(x + NAMES_PX, y + FOOT_PX + 222, "score; the black mark is the threshold", 11, 300, colour=FAINT)


def _when_pushed(record: GuidanceRecord) -> str:
    pushed = [step for step, strength in enumerate(record.push) if strength]
    if not pushed:
        return "no push at any step"
    return (
        f"from step {pushed[0]} to step {pushed[-1]}, mean |γ| at most {max(record.push[i] or 0 for i in pushed):.3g}"
    )


def _what_is_left_out(bars: Bars) -> str:
    told = "margins at the right"
    if bars.left_out:
        told += f"; {bars.left_out} further below left out"
    if bars.special_care:
        told += f"; thresholds lowered for {', '.join(bars.special_care)}"
    return told


def _label_right(page: _Page, axes: Axes, labels: Sequence[tuple[float, str, str]], *, leaders: bool = True) -> None:
    """Each text beside the axes at its height, or as near as the others let it; a leader shows where it belongs."""
    low, high = axes.get_ylim()
    box = axes.get_position()
    bottom_px, height_px, right_px = box.y0 * page.height, box.height * page.height, box.x1 * page.width
    wanted = [bottom_px + height_px * (value - low) / (high - low) for value, _, _ in labels]
    for (_, text, colour), at, height in zip(
        labels, spread(wanted, 16, bottom_px - 4, bottom_px + height_px + 4), wanted, strict=True
    ):
        start = right_px + 18 if leaders else right_px + 10
        if leaders:
            ends = [right_px + 2, right_px + 14]
            page.figure.add_artist(_line(page, ends, [height, at], colour))
        page.write(start, page.height - at - 8, text, LABEL_PX, RIGHT_PX - 24, colour=INK if leaders else FAINT)


def _line(page: _Page, xs: Sequence[float], ys: Sequence[float], colour: str) -> Line2D:
    return Line2D([x / page.width for x in xs], [y / page.height for y in ys], color=colour, linewidth=1.2)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones with `gap` between them, none above `high`, none below `low` if there is room."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(wanted[i], placed[-1] + gap) if placed else max(wanted[i], low))
    ceiling = high
    for position in reversed(range(len(placed))):
        placed[position] = min(placed[position], ceiling)
        ceiling = placed[position] - gap
    result = [0.0] * len(wanted)
    for i, at in zip(order, placed, strict=True):
        result[i] = at
    return result


def _gapped(numbers: Sequence[float | None]) -> list[float]:
    """For matplotlib, which leaves a gap where there is no number."""
    return [float("nan") if number is None else number for number in numbers]
