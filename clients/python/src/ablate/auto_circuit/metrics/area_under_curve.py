# SPDX-License-Identifier: Apache-2.0
"""Areas under curves of measurements, as AutoCircuit counts them."""

from __future__ import annotations

import math
from typing import Any, Dict, Optional

from .._plotly import plotly
from ..prune_algos.prune_algos import PRUNE_ALGO_DICT, RANDOM_PRUNE_ALGO
from ..tasks import TASK_DICT
from ..types import (
    COLOR_PALETTE,
    AlgoKey,
    AlgoMeasurements,
    Measurements,
    PruneMetricKey,
    PruneMetricMeasurements,
    TaskKey,
    TaskMeasurements,
)


def measurements_auc(
    points: Measurements, log_x: bool, log_y: bool, y_min: Optional[float], eps: float = 1e-3
) -> float:
    """The area between a curve and its value at 0 edges, at least ``eps``.

    ``log_x`` leaves the segment that begins at 0 out; ``log_y`` takes values from ``y_min`` up, and their
    logarithms from that of ``y_min``. Raises ValueError for a curve that does not begin at 0 edges.
    """
    ordered = sorted(points, key=lambda point: point[0])
    if not ordered or ordered[0][0] != 0:
        raise ValueError("the curve must begin at 0 edges")
    if log_y and not (y_min is not None and y_min > 0):
        raise ValueError("log_y needs y_min, above 0")
    baseline = ordered[0][1]

    def height(y: float) -> float:
        if log_y and y_min is not None:
            y = math.log10(max(y, y_min)) - math.log10(y_min)
        return y - baseline

    area = 0.0
    for (x1, y1), (x2, y2) in zip(ordered, ordered[1:]):
        if log_x and x1 == 0:
            continue
        width = math.log10(x2) - math.log10(x1) if log_x else x2 - x1
        area += width * (height(y1) + height(y2)) / 2
    return max(area, eps)


def algo_measurements_auc(
    algo_measurements: AlgoMeasurements, log_x: bool, log_y: bool, y_min: Optional[float] = None
) -> Dict[AlgoKey, float]:
    """:func:`measurements_auc` of each algorithm that has a curve."""
    return {
        algo: measurements_auc(points, log_x, log_y, y_min)
        for algo, points in algo_measurements.items()
        if len(points) > 1
    }


def task_measurements_auc(
    task_measurements: TaskMeasurements, log_x: bool, log_y: bool, y_min: Optional[float] = None
) -> Dict[TaskKey, Dict[AlgoKey, float]]:
    """:func:`algo_measurements_auc` of each task."""
    return {
        task: algo_measurements_auc(by_algo, log_x, log_y, y_min) for task, by_algo in task_measurements.items()
    }


def metric_measurements_auc(
    points: PruneMetricMeasurements, log_x: bool, log_y: bool, y_min: Optional[float] = None
) -> Dict[PruneMetricKey, Dict[TaskKey, Dict[AlgoKey, float]]]:
    """:func:`task_measurements_auc` of each metric."""
    return {
        metric: task_measurements_auc(by_task, log_x, log_y, y_min) for metric, by_task in points.items()
    }


def average_auc_plot(
    task_measurements: TaskMeasurements, log_x: bool, log_y: bool, y_min: Optional[float], inverse: bool
) -> Any:
    """A plotly figure: for each algorithm a bar, the mean over tasks of its area as a share of random
    scores'; ``inverse``: 2 minus that, so that longer is better.

    Raises ValueError for a task without the curve of random scores, ModuleNotFoundError without plotly.
    """
    graph_objects, _ = plotly("areas under curves")
    by_task = task_measurements_auc(task_measurements, log_x, log_y, y_min)
    totals: Dict[str, float] = {}
    bars = []
    for number, (task, areas) in enumerate(by_task.items()):
        if RANDOM_PRUNE_ALGO.key not in areas:
            raise ValueError(f"the task {task!r} has no curve of {RANDOM_PRUNE_ALGO.key!r}, whose area is the unit")
        names, lengths = [], []
        for key, area in reversed(areas.items()):
            share = area / areas[RANDOM_PRUNE_ALGO.key]
            names.append(PRUNE_ALGO_DICT[key].name if key in PRUNE_ALGO_DICT else key)
            lengths.append((2 - share if inverse else share) / len(by_task))
            totals[names[-1]] = totals.get(names[-1], 0.0) + lengths[-1]
        colour = COLOR_PALETTE[number % len(COLOR_PALETTE)]
        bars.append(
            graph_objects.Bar(name=TASK_DICT[task].name, y=names, x=lengths, orientation="h", marker={"color": colour})
        )
    figure = graph_objects.Figure(bars)
    figure.add_scatter(
        x=list(totals.values()), y=list(totals), mode="text", text=[f"{total:.2f}" for total in totals.values()],
        textposition="middle right", showlegend=False,
    )  # fmt: skip
    title = "Normalized Inverse AUC" if inverse else "Normalized AUC"
    figure.update_xaxes(title=title, range=[0, 1.15 * max(totals.values(), default=1.0)])
    figure.update_layout(
        barmode="stack", width=600, height=200 + 45 * len(totals),
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    return figure
