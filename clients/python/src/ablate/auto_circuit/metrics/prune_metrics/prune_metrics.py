# SPDX-License-Identifier: Apache-2.0
"""The registry of metrics of circuits' outputs, with AutoCircuit's keys, names and axes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Callable, Dict, List, Optional

from ...data import PromptDataLoader
from ...types import CircuitOutputs, Measurements, PruneMetricKey
from ...utils.patchable_model import PatchableModel
from .answer_diff import measure_answer_diff
from .answer_diff_percent import measure_answer_diff_percent
from .answer_value import measure_answer_val
from .correct_answer_percent import measure_correct_ans_percent
from .kl_div import measure_kl_div


@dataclass(frozen=True)
class PruneMetric:
    """A metric: ``metric_func(model, loader, circuit_outs)`` gives measurements; the rest is for plots."""

    key: PruneMetricKey
    name: str
    metric_func: Callable[[PatchableModel, PromptDataLoader, CircuitOutputs], Measurements]
    log_x: bool = False
    log_y: bool = False
    lower_better: bool = False
    y_axes_match: bool = False
    y_min: Optional[float] = None


_diff, _percent, _value = measure_answer_diff, measure_answer_diff_percent, measure_answer_val

CLEAN_KL_DIV_METRIC = PruneMetric(
    "Clean KL Div", "KL Divergence", partial(measure_kl_div, compare_to_clean=True),
    log_x=True, log_y=True, lower_better=True, y_min=1e-2,
)  # fmt: skip
CORRUPT_KL_DIV_METRIC = PruneMetric(
    "Corrupt KL Div", "KL Divergence", partial(measure_kl_div, compare_to_clean=False),
    log_x=True, log_y=True, y_min=1e-6,
)  # fmt: skip
ANSWER_LOGIT_METRIC = PruneMetric(
    "Answer Logit", "Answer Logit", partial(_value, prob_func="logits", wrong_answer=False), log_x=True
)
WRONG_ANSWER_LOGIT_METRIC = PruneMetric(
    "Wrong Answer Logit", "Wrong Answer Logit", partial(_value, prob_func="logits", wrong_answer=True), log_x=True
)
ANSWER_PROB_METRIC = PruneMetric(
    "Answer Prob", "Answer Probability", partial(_value, prob_func="softmax", wrong_answer=False), log_x=True
)
ANSWER_LOGPROB_METRIC = PruneMetric(
    "Answer Logprob", "Answer Log Probability", partial(_value, prob_func="log_softmax"),
    log_x=True, log_y=True, y_min=1e-6,
)  # fmt: skip
LOGIT_DIFF_METRIC = PruneMetric("Logit Diff", "Logit Difference", partial(_diff, prob_func="logits"), log_x=True)
PROB_DIFF_METRIC = PruneMetric(
    "Prob Diff", "Probability Difference", partial(_diff, prob_func="softmax"), log_x=True
)
LOGPROB_DIFF_METRIC = PruneMetric(
    "Logprob Diff", "Log Probability Difference", partial(_diff, prob_func="log_softmax"),
    log_x=True, log_y=True, y_min=1e-6,
)  # fmt: skip
LOGIT_DIFF_PERCENT_METRIC = PruneMetric(
    "Logit Diff Percent", "Logit Difference Percent",
    partial(_percent, prob_func="logits", diff_of_means=True), log_x=True,
)  # fmt: skip
PROB_DIFF_PERCENT_METRIC = PruneMetric(
    "Prob Diff Percent", "Probability Difference Percent", partial(_percent, prob_func="softmax"), log_x=True
)
LOBPROB_DIFF_PERCENT_METRIC = PruneMetric(
    "LogProb Diff Percent", "Log Probability Difference Percent",
    partial(_percent, prob_func="log_softmax"), log_x=True,
)  # fmt: skip
CORRECT_ANSWER_PERCENT_METRIC = PruneMetric(
    "Correct Answer Percent", "Correct Answer Percent", measure_correct_ans_percent, log_x=True
)
CORRECT_ANSWER_GREATER_THAN_INCORRECT_PERCENT_METRIC = PruneMetric(
    "Correct Answer Greater Than Incorrect Percent", "Correct Answer Greater Than Incorrect Percent",
    partial(measure_correct_ans_percent, out_of_correct_and_incorrect_answers=True), log_x=True,
)  # fmt: skip

PRUNE_METRICS: List[PruneMetric] = [
    CLEAN_KL_DIV_METRIC,
    CORRUPT_KL_DIV_METRIC,
    ANSWER_PROB_METRIC,
    ANSWER_LOGIT_METRIC,
    WRONG_ANSWER_LOGIT_METRIC,
    ANSWER_LOGPROB_METRIC,
    LOGIT_DIFF_METRIC,
    PROB_DIFF_METRIC,
    LOGPROB_DIFF_METRIC,
    LOGIT_DIFF_PERCENT_METRIC,
    PROB_DIFF_PERCENT_METRIC,
    LOBPROB_DIFF_PERCENT_METRIC,
    CORRECT_ANSWER_PERCENT_METRIC,
    CORRECT_ANSWER_GREATER_THAN_INCORRECT_PERCENT_METRIC,
]
PRUNE_METRIC_DICT: Dict[PruneMetricKey, PruneMetric] = {metric.key: metric for metric in PRUNE_METRICS}
