# SPDX-License-Identifier: Apache-2.0
"""What objects look like in a notebook: small self-contained HTML, no scripts, so every viewer shows
it; colours come from the page or are translucent, so light and dark themes both work.
"""

from __future__ import annotations

import html
import math
import re
from typing import TYPE_CHECKING, Any, Iterable, Sequence

import numpy as np

from ._arrays import to_numpy

if TYPE_CHECKING:
    from ._ablation import ResidentAblation
    from ._cache import ActivationCache
    from ._caches import KvCache
    from ._client import Client
    from ._dataset import Dataset
    from ._graph import Graph
    from ._hooks import Hook
    from ._interop import EapGraph
    from ._jobs import Job, PruneScores
    from ._measure import Comparison, Evaluation
    from ._model import Model

_GREY = "rgba(128,128,128,0.3)"
_TABLE = "border-collapse:collapse;font-size:12px;margin:4px 0;color:inherit;background:transparent"
_CELL = f"padding:2px 10px 2px 4px;border:0;border-bottom:1px solid {_GREY};text-align:left;background:transparent"
_HEADS_MAX = 200
_LABELS_MAX = 24
_STATE_COLOURS = {
    "succeeded": "rgba(46,160,67,0.35)",
    "running": "rgba(56,139,253,0.35)",
    "failed": "rgba(248,81,73,0.4)",
    "cancelled": "rgba(210,153,34,0.4)",
}


class Markup(str):
    """Text that is HTML already."""


def _cell(value: object) -> str:
    return str(value) if isinstance(value, Markup) else html.escape(str(value))


def _is_number(value: object) -> bool:
    return re.fullmatch(r"[+-]?(\d[\d.,]*(e[+-]?\d+)?|nan|inf)?", str(value)) is not None


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; everything but :class:`Markup` is escaped. Columns of numbers are aligned to
    the right."""
    rows = [list(row) for row in rows]
    numeric = [bool(header) and all(map(_is_number, column)) for column in zip(*rows)]
    styles = [_CELL.replace("text-align:left", "text-align:right") if right else _CELL for right in numeric]
    lines = [f'<table style="{_TABLE}">']
    if caption:
        style = "text-align:left;font-weight:600;color:inherit;white-space:nowrap"
        lines.append(f'<caption style="{style}">{html.escape(caption)}</caption>')
    if header:
        columns = zip(header, styles or [_CELL] * len(header))
        names = [f'<th style="{style};font-weight:600">{html.escape(name)}</th>' for name, style in columns]
        lines.append(f"<tr>{''.join(names)}</tr>")
    for row in rows:
        cells = "".join(f'<td style="{style}">{_cell(cell)}</td>' for cell, style in zip(row, styles))
        lines.append(f"<tr>{cells}</tr>")
    lines.append("</table>")
    return "".join(lines)


def folded(summary: str, inner: str) -> str:
    """Something long, closed at first."""
    head = f'<summary style="cursor:pointer">{html.escape(summary)}</summary>'
    return f'<details style="font-size:12px">{head}{inner}</details>'


def bar(value: float, limit: float, width: int = 120) -> Markup:
    """A bar to the right of a number: blue above 0, orange below."""
    share = min(abs(value) / limit, 1.0) if limit and np.isfinite(value) else 0.0
    colour = "rgba(56,132,214,0.75)" if value >= 0 else "rgba(214,112,36,0.75)"
    shape = f"display:inline-block;height:9px;width:{max(round(share * width), 1)}px"
    return Markup(f'<span style="{shape};background:{colour}"></span>')


def badge(text: str, state: str | None = None) -> Markup:
    """A job's state, or a text in the colour of one."""
    colour = _STATE_COLOURS.get(state or text, _GREY)
    return Markup(f'<span style="padding:0 6px;border-radius:8px;background:{colour}">{html.escape(text)}</span>')


def size(count: float) -> str:
    """Bytes for people."""
    if count < 1000:
        return f"{count:.0f} B"
    power = min(int(math.log10(count)) // 3, 4)
    return f"{count / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def shapes(caption: str, named: Iterable[tuple[str, Sequence[Any]]]) -> str:
    """Names and shapes, folded where they are many."""
    rows = [(name, "×".join(map(str, shape))) for name, shape in named]
    if len(rows) <= 12:
        return table(caption, ("name", "shape"), rows)
    more = [(f"and {len(rows) - _HEADS_MAX} more", "")] if len(rows) > _HEADS_MAX else []
    return folded(caption, table("", ("name", "shape"), rows[:_HEADS_MAX] + more))


def model(it: "Model") -> str:
    """A model: shape, place, weights and what was done to them."""
    cfg = it.cfg
    heads = str(cfg.n_heads)
    if cfg.n_key_value_heads != cfg.n_heads:
        heads += f", {cfg.n_key_value_heads} key-value heads"
    processed = [name for name, applied in it.processing.items() if applied]
    rows: list[tuple[str, object]] = [
        ("family", cfg.family),
        ("layers", str(cfg.n_layers)),
        ("heads", heads),
        ("d_model, d_head, d_mlp", f"{cfg.d_model}, {cfg.d_head}, {cfg.d_mlp}"),
        ("vocabulary, context", f"{cfg.d_vocab}, {cfg.n_ctx}"),
        ("parameters", f"{cfg.parameter_count:,}"),
        ("weights", f"{it.dtype} on {it.device}, {size(it.weight_bytes)}, sha256 {it.hash[:12]}"),
        ("processing", ", ".join(processed) or "none: as in the file"),
    ]
    return table(f"ablate.Model {it.name} ({it.id})", (), rows)


def graph(it: "Graph") -> str:
    """A graph: its edges, options, and modules."""
    rows: list[tuple[str, object]] = [
        ("model", it.model.name),
        ("edges", f"{it.edge_count:,}"),
        ("kind", "factorized: heads and MLPs" if it.is_factorized else "nodes of the residual stream"),
        ("positions", "all in one" if it.seq_len is None else f"{it.seq_len}, edges at each"),
        ("inputs", "query, key and value apart" if it.separate_qkv else "one for each head"),
    ]
    modules = shapes(f"{len(it.modules)} destination modules", it.modules.items())
    return table(f"ablate.Graph {it.id}", (), rows) + modules


def prune_scores(it: "PruneScores") -> str:
    """The top edges, with bars; without their names, the largest elements."""
    count = sum(to_numpy(array).size for array in it.values())
    caption = f"ablate.PruneScores: {count:,} edges, job {it.job.id}"
    top: Sequence[tuple[str, int | None, float]]
    if it.top_edges:
        top = [(edge.edge, edge.seq_idx, edge.score) for edge in it.top_edges]
        header = ["edge", "position", "score", ""]
    else:
        top = _largest(it)
        header = ["element", "position", "score", ""]
    limit = max((abs(score) for _, _, score in top), default=0.0)
    rows = [[name, "" if at is None else at, f"{score:+.4g}", bar(score, limit)] for name, at, score in top]
    if all(at is None for _, at, _ in top):
        header.pop(1)
        rows = [[row[0], *row[2:]] for row in rows]
    return table(caption, header, rows)


def _largest(it: "PruneScores", count: int = 10) -> list[tuple[str, None, float]]:
    found: list[tuple[str, None, float]] = []
    for name, array in it.items():
        values = to_numpy(array)
        flat = values.reshape(-1).astype(np.float64)
        for index in np.argsort(-np.abs(flat))[:count]:
            where = ", ".join(str(int(i)) for i in np.unravel_index(index, values.shape))
            found.append((f"{name}[{where}]", None, float(flat[index])))
    return sorted(found, key=lambda item: -abs(item[2]))[:count]


def job(it: "Job") -> str:
    """A job: its state and how far it is; ACDC's taus."""
    share = it.done_units / it.total_units if it.total_units else 0.0
    rows: list[tuple[str, object]] = [
        ("state", badge(it.state)),
        ("done", Markup(f"{it.done_units} of {it.total_units} {bar(share, 1.0)}")),
        ("time", f"{it.elapsed_ms / 1000:.1f} s"),
    ]
    if it.error:
        rows.append(("error", it.error))
    text = table(f"ablate.Job {it.id}", (), rows)
    if it.acdc:
        taus = [(f"{t.tau:.3g}", t.removed_edges, f"{t.effect:+.4g}") for t in it.acdc]
        text += table("", ("tau", "edges removed", "effect"), taus)
    return text


def evaluation(it: "Evaluation") -> str:
    """A row a circuit, and the areas under the curves."""
    if not it:
        return table("ablate.Evaluation: no circuit", (), ())
    names = list(it[0])
    rows = [[int(row["edge_count"]), *(f"{row[name]:.4g}" for name in names[1:])] for row in it]
    text = table("ablate.Evaluation", [name.replace("_", " ") for name in names], rows)
    if it.areas:
        areas = [
            (name.replace("_", " "), f"{a.auc:.4g}", f"{a.trapezoid:.4g}", f"{a.cpr:.4g}", f"{a.cmd:.4g}")
            for name, a in it.areas.items()
        ]
        text += folded("areas under the curves", table("", ("metric", "AUC", "trapezoid", "CPR", "CMD"), areas))
    return text


def hook(it: "Hook") -> str:
    """An intervention: where, what, and on which part."""
    chosen = {"heads": it.heads, "positions": it.positions, "rows": it.rows}
    rows: list[tuple[str, object]] = [("at", it.name), ("operation", it.op)]
    rows += [(what, ", ".join(map(str, numbers)) or "all") for what, numbers in chosen.items()]
    return table(f"ablate.Hook {it.id} of {it.graph_id}", (), rows)


def client(it: "Client") -> str:
    """A connection: the daemon, what is resident there, or that it does not answer."""
    from .errors import AblateError

    rows: list[tuple[str, object]] = [("daemon", f"{it.server_version}, {it.protocol}"), ("arrays", it.arrays)]
    try:
        info = it.server_info(timeout=2.0)
    except AblateError as error:
        rows.append(("now", Markup(f"{badge('no answer', 'failed')} {html.escape(error.message)}")))
        return table(f"ablate.Client of {it.host}", (), rows)
    held = {field.name: value for field, value in info.resident_bytes.ListFields() if value}
    counts = {
        "models": info.model_count, "graphs": info.graph_count, "datasets": info.dataset_count,
        "KV caches": info.kv_cache_count, "ablations": info.ablation_count, "jobs at work": info.active_job_count,
    }  # fmt: skip
    rows += [
        ("devices", ", ".join(f"{device.name}, {device.queue_length} waiting" for device in info.devices)),
        ("resident", ", ".join(f"{what}: {count}" for what, count in counts.items() if count) or "nothing"),
        ("bytes", ", ".join(f"{name.replace('_', ' ')} {size(value)}" for name, value in held.items()) or "none"),
        ("up", f"{info.uptime_ms / 1000:,.0f} s (instance {info.instance_id})"),
    ]
    return table(f"ablate.Client of {it.host}", (), rows)


def _first(items: Sequence[object], between: str) -> str:
    """The first of them, and whether there are more."""
    return between.join(map(str, items[:_LABELS_MAX])) + (" …" if len(items) > _LABELS_MAX else "")


def dataset(it: "Dataset") -> str:
    """A dataset: its size and, where the file has them, the labels of its positions."""
    rows: list[tuple[str, object]] = [
        ("prompt pairs", f"{it.prompt_count:,}"),
        ("sha256", it.hash[:12]),
    ]
    if it.seq_labels:
        rows.append(("positions", _first(it.seq_labels, " · ")))
    return table(f"ablate.Dataset {it.name} ({it.id})", (), rows)


def kv_cache(it: "KvCache") -> str:
    """A KV cache: the prefix, its room, and who uses it."""
    rows: list[tuple[str, object]] = [
        ("model", it.model_id),
        ("prefix", f"{len(it.tokens)} tokens: {_first(it.tokens, ', ')}"),
        ("on the device", size(it.bytes)),
        ("used", f"{it.hits} times, last {it.last_use:%Y-%m-%d %H:%M:%S} UTC"),
        ("held by", ", ".join(it.user_ids) or "nobody"),
    ]
    return table(f"ablate.KvCache {it.id}", (), rows)


def ablation(it: "ResidentAblation") -> str:
    """An ablation: its kind, what it is of and whom it fits."""
    rows: list[tuple[str, object]] = [
        ("kind", it.type.name.replace("_", " ").lower()),
        ("of", f"{it.prompt_count:,} {'clean' if it.from_clean else 'corrupt'} prompts, "
               f"{it.dataset_id or 'given with the call'}"),
        ("fits", f"{it.model_id}: prompts of {it.seq_len} tokens"
                 + (f" behind {it.prefix_length}" if it.prefix_length else "")),
        ("rows", "1: a mean" if it.row_count == 1 else f"{it.row_count}: one for each prompt"),
        ("on the device", size(it.bytes)),
    ]  # fmt: skip
    if it.job_ids:
        rows.append(("used by", ", ".join(it.job_ids)))
    return table(f"ablate.ResidentAblation {it.id}", (), rows)


def activation_cache(it: "ActivationCache") -> str:
    """Activations: names and shapes, and which of them are here."""
    here = set(it.fetched)
    caption = f"ActivationCache of {it.model.name}: {len(it)} activations, {len(here)} of them here"
    rows = [
        (name, "×".join(map(str, shape)), "here" if name in here else "on the daemon")
        for name, shape in it.shapes().items()
    ]
    if len(rows) <= 12:
        return table(caption, ("hook point", "shape", ""), rows)
    more = [(f"and {len(rows) - _HEADS_MAX} more", "", "")] if len(rows) > _HEADS_MAX else []
    return folded(caption, table("", ("hook point", "shape", ""), rows[:_HEADS_MAX] + more))


def comparison(it: "Comparison") -> str:
    """Two sets of scores: correlations, and how far their circuits overlap."""
    head = table("ablate.Comparison", (), [
        ("rank correlation of |score|", f"{it.spearman:.4f}"), ("correlation of scores", f"{it.pearson:.4f}"),
    ])  # fmt: skip
    if not it.overlaps:
        return head
    rows = [
        (o.edge_count, o.common_count, f"{o.first_count}, {o.second_count}", f"{o.jaccard:.3f}", bar(o.jaccard, 1.0))
        for o in it.overlaps
    ]
    return head + table("", ("edges asked for", "in both", "in each", "Jaccard", ""), rows)


def eap_graph(it: "EapGraph") -> str:
    """A graph file: its edges, and how many of them are in the graph."""
    count = sum(values.size for values in it.scores.values())
    kept = count - int(sum(values.sum() for values in it.mask.values()))
    shape = ", ".join(f"{name} {value}" for name, value in it.cfg.items())
    return table("ablate.EapGraph", (), [("of", shape), ("edges", f"{count:,}"), ("in the graph", f"{kept:,}")])
