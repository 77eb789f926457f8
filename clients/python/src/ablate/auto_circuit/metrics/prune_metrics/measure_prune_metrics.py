# SPDX-License-Identifier: Apache-2.0
"""Metrics of many circuits: every task, algorithm, size and kind of ablation."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Dict, List, Optional, Tuple

from ..._missing import missing_from
from ..._plotly import plotly
from ...prune import run_circuits
from ...prune_algos.prune_algos import PRUNE_ALGO_DICT
from ...tasks import TASK_DICT
from ...types import AblationMeasurements, AblationType, PatchType, TaskPruneScores
from ...utils.graph_utils import edge_counts_util
from ..area_under_curve import algo_measurements_auc
from .prune_metrics import PRUNE_METRIC_DICT, PruneMetric


def _nested() -> Any:
    return defaultdict(_nested)


def measure_prune_metrics(
    ablation_types: List[AblationType],
    metrics: List[PruneMetric],
    task_prune_scores: TaskPruneScores,
    patch_type: PatchType,
    reverse_clean_corrupt: bool = False,
    test_edge_counts: Optional[List[int]] = None,
) -> AblationMeasurements:
    """Ablation -> metric -> task -> algorithm -> measurements, on the tasks' test prompts, at
    ``test_edge_counts`` or those of ``edge_counts_util``.
    """
    measured: AblationMeasurements = _nested()
    for task_key, by_algo in task_prune_scores.items():
        task = TASK_DICT[task_key]
        for algo_key, scores in by_algo.items():
            counts = test_edge_counts or edge_counts_util(
                task.model.edges, prune_scores=scores, true_edge_count=task.true_edge_count
            )
            for kind in ablation_types:
                outs = run_circuits(
                    task.model, task.test_loader, counts, scores, patch_type, kind, reverse_clean_corrupt
                )
                for metric in metrics:
                    points = metric.metric_func(task.model, task.test_loader, outs)
                    measured[kind][metric.key][task_key][algo_key] = points
    return measured


def _short(algo_key: str) -> str:
    """For legends; the key itself for an algorithm that is not in the registry."""
    return PRUNE_ALGO_DICT[algo_key].short_name if algo_key in PRUNE_ALGO_DICT else algo_key


def measurement_figs(measurements: AblationMeasurements, auc_plots: bool = False) -> Tuple[Any, ...]:
    """A plotly figure for each kind of ablation and metric: the value over the circuit's size, a line an
    algorithm, a column a task; with ``auc_plots`` its areas behind it. Raises ModuleNotFoundError
    without plotly.
    """
    go, subplots = plotly("curves")
    figures = []
    for kind, by_metric in measurements.items():
        for metric_key, by_task in by_metric.items():
            metric = PRUNE_METRIC_DICT[metric_key]
            titles = [TASK_DICT[key].name for key in by_task]
            figure = subplots.make_subplots(rows=1, cols=len(titles), subplot_titles=titles)
            areas: Dict[str, Dict[str, float]] = {}
            for column, (task_key, by_algo) in enumerate(by_task.items(), start=1):
                for algo_key, points in by_algo.items():
                    ordered = sorted(points)
                    name = _short(algo_key)
                    figure.add_scatter(
                        x=[max(x, 0.5) if metric.log_x else x for x, _ in ordered],
                        y=[y if metric.y_min is None else max(y, metric.y_min) for _, y in ordered],
                        name=name, legendgroup=name, showlegend=column == 1, mode="lines+markers", row=1, col=column,
                    )  # fmt: skip
                areas[TASK_DICT[task_key].name] = algo_measurements_auc(
                    by_algo, metric.log_x, metric.log_y, metric.y_min
                ) if auc_plots else {}  # fmt: skip
            figure.update_xaxes(title="Circuit Edges", type="log" if metric.log_x else "linear")
            figure.update_yaxes(type="log" if metric.log_y else "linear")
            figure.update_layout(
                width=max(365 * len(titles), 500), height=500, yaxis_title=f"{metric.name} ({kind})"
            )
            figures.append(figure)
            if auc_plots:
                bars = [
                    go.Bar(name=task, y=[_short(key) for key in area], x=list(area.values()),
                           orientation="h")
                    for task, area in areas.items()
                ]  # fmt: skip
                figures.append(go.Figure(bars, {"barmode": "stack", "xaxis": {"title": f"AUC of {metric.name}"}}))
    return tuple(figures)


__getattr__ = missing_from(__name__)
