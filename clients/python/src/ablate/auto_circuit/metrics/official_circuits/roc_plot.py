# SPDX-License-Identifier: Apache-2.0
"""Pictures of ROC curves."""

from __future__ import annotations

from typing import Any, Dict

from ..._plotly import Legend, plotly
from ...prune_algos.prune_algos import PRUNE_ALGO_DICT
from ...tasks import TASK_DICT
from ...types import Measurements, TaskMeasurements


def task_roc_plot(task_measurements: TaskMeasurements) -> Any:
    """:func:`roc_plot` of what ``measure_roc`` gives, with the names of tasks and algorithms."""
    return roc_plot(
        {
            TASK_DICT[task].name: {
                PRUNE_ALGO_DICT[algo].short_name if algo in PRUNE_ALGO_DICT else algo: points
                for algo, points in by_algo.items()
            }
            for task, by_algo in task_measurements.items()
        }
    )


def roc_plot(taskname_measurements: Dict[str, Dict[str, Measurements]], variable_width: bool = False) -> Any:
    """A plotly figure: a column a task, a line an algorithm. ``variable_width``: lines that lie under
    others are wider. Raises ModuleNotFoundError without plotly.
    """
    _, subplots = plotly("ROC curves")
    tasks = sorted(taskname_measurements.items())
    figure = subplots.make_subplots(rows=1, cols=len(tasks), subplot_titles=[name for name, _ in tasks])
    legend = Legend()
    for column, (_, by_algo) in enumerate(tasks, start=1):
        for number, (algo, points) in enumerate(by_algo.items()):
            figure.add_scatter(
                x=[x for x, _ in points], y=[y for _, y in points], **legend.entry(algo),
                mode="markers+text" if len(points) == 1 else "lines", text=algo,
                line_width=4 + 8 * (len(by_algo) - 1 - number) if variable_width else 2,
                textposition="middle right", row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(title="False Positive Rate", range=[-0.02, 1.02])
    figure.update_yaxes(range=[-0.02, 1.02])
    figure.update_layout(yaxis_title="True Positive Rate", height=500, width=max(365 * len(tasks) - 10, 500))
    return figure
