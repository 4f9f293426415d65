# SPDX-License-Identifier: BSD-2-Clause
"""A picture of a call: the caller's and the agent's audio over one time axis. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gateway.simulator.call_plan import CallReport, SimulatedEvent

SIZE_INCHES = (12.0, 5.6)
DPI = 110
COLUMN_MS = 10
"""Milliseconds of audio in one column of the waveform."""

FULL_SCALE = 32768
HEIGHT = 0.85
"""The part of full scale that an axis shows."""

TEXT_ABOVE, TEXT_BELOW = 0.8, -0.78
CALLER_COLOR, AGENT_COLOR, NOTE, QUIET = "#1f5fa8", "#c2571a", "#333333", "#8a8a8a"


def draw_call(report: CallReport, path: Path) -> None:
    """Write the picture of a call as PNG."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI)
    FigureCanvasAgg(figure)
    caller, agent = figure.subplots(2, 1, sharex=True, gridspec_kw={"hspace": 0.12})
    seconds = max(len(report.sent_audio), len(report.played_audio)) / 2 / report.sample_rate
    _wave(caller, report.sent_audio, report.sample_rate, CALLER_COLOR, "the caller said")
    _wave(agent, report.played_audio, report.sample_rate, AGENT_COLOR, "the caller heard")
    _digits(caller, report.events)
    _marks(agent, report.events)
    _setup(agent, report)
    _echo(agent, report)
    for axes in (caller, agent):
        for event in _of(report.events, "hang-up", "closed")[:1]:
            axes.axvline(event.at_ms / 1000, color=NOTE, linewidth=1.2)
    if end := _of(report.events, "hang-up", "closed"):
        detail = "hangs up " if end[0].kind == "hang-up" else "far side closes "
        caller.text(end[0].at_ms / 1000, TEXT_ABOVE, detail, ha="right", va="top", fontsize=9, color=NOTE)
    agent.set_xlim(0, seconds * 1.01)
    agent.set_xlabel("seconds since the stream opened")
    figure.suptitle(
        f"{report.carrier.capitalize()}", x=0.065, y=0.975, ha="left", fontsize=14, fontweight="bold"
    )
    figure.text(0.065, 0.905, _summary(report), fontsize=10, color=NOTE, ha="left")
    figure.subplots_adjust(left=0.065, right=0.985, top=0.88, bottom=0.1)
    figure.savefig(path)


def _wave(axes: Axes, pcm: bytes, sample_rate: int, color: str, label: str) -> None:
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64) / FULL_SCALE
    column = sample_rate * COLUMN_MS // 1000
    whole = samples[: len(samples) // column * column].reshape(-1, column)
    times = np.arange(len(whole)) * COLUMN_MS / 1000
    axes.fill_between(times, whole.min(axis=1), whole.max(axis=1), color=color, linewidth=0.4)
    axes.axhline(0, color=color, linewidth=0.6)
    axes.set_ylim(-HEIGHT, HEIGHT)
    axes.set_yticks([-0.5, 0, 0.5])
    axes.tick_params(labelsize=9)
    axes.grid(axis="x", color="#e3e3e3")
    axes.set_axisbelow(True)
    axes.set_ylabel(label, color=color, fontsize=11)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _digits(axes: Axes, events: tuple[SimulatedEvent, ...]) -> None:
    keys = [event for event in _of(events, "digit") if len(event.text) == 1]
    for event in keys:
        axes.axvline(event.at_ms / 1000, ymin=0.25, ymax=0.75, color=QUIET, linewidth=0.8, linestyle=":")
        axes.text(
            event.at_ms / 1000,
            0.55,
            event.text,
            ha="center",
            fontsize=11,
            fontweight="bold",
            color=NOTE,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": QUIET},
        )
    if keys:
        axes.text(keys[0].at_ms / 1000 - 0.1, 0.55, "keys ", ha="right", fontsize=9, color=NOTE)


def _marks(axes: Axes, events: tuple[SimulatedEvent, ...]) -> None:
    """Draw when marks were played, and when the agent cleared what had not been played."""
    for event in _of(events, "played", "clear"):
        detail = f"mark “{event.text}” played" if event.kind == "played" else "cleared"
        axes.axvline(event.at_ms / 1000, color=NOTE, linewidth=1, linestyle="--")
        axes.text(event.at_ms / 1000, TEXT_ABOVE, f" {detail}", va="top", fontsize=9, color=NOTE)


def _setup(axes: Axes, report: CallReport) -> None:
    first = _of(report.events, "agent sound")
    if not first or report.setup_ms is None:
        return
    at = first[0].at_ms / 1000
    axes.axvspan(0, at, color="#f3d9c6")
    axes.axvline(at, color=AGENT_COLOR, linewidth=1)
    axes.text(at, TEXT_BELOW, f" first sound {report.setup_ms:.0f} ms after dialling", fontsize=9, color=NOTE)


def _echo(axes: Axes, report: CallReport) -> None:
    """Draw the time from the caller's first word until it came back."""
    spoken = _of(report.events, "speech")
    if not spoken or report.delay_p50_ms is None:
        return
    spoken_at, back_at = spoken[0].at_ms / 1000, (spoken[0].at_ms + report.delay_p50_ms) / 1000
    axes.annotate(
        "",
        (back_at, TEXT_BELOW + 0.05),
        (spoken_at, TEXT_BELOW + 0.05),
        arrowprops={"arrowstyle": "->", "color": NOTE},
    )
    detail = f" the caller's words come back {report.delay_p50_ms:.0f} ms later"
    axes.text(back_at, TEXT_BELOW, detail, fontsize=9, color=NOTE)


def _summary(report: CallReport) -> str:
    parts = [f"{report.frames_sent} frames sent, {report.frames_received} received"]
    if report.delay_p50_ms is not None and report.delay_p99_ms is not None:
        parts.append(f"echo after {report.delay_p50_ms:.0f} ms (p99 {report.delay_p99_ms:.0f} ms)")
        parts.append(f"{report.lost_frames} of the spoken frames lost")
    parts.append(report.error or f"closed with {report.close_code}")
    return "   ·   ".join(parts)


def _of(events: tuple[SimulatedEvent, ...], *kinds: str) -> list[SimulatedEvent]:
    return [event for event in events if event.kind in kinds]
