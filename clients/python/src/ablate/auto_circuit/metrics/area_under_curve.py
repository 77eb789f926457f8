# SPDX-License-Identifier: Apache-2.0
"""Areas under curves of measurements, as AutoCircuit counts them."""

from __future__ import annotations

import math
from typing import Dict, Optional

from ..types import (
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
