# SPDX-License-Identifier: Apache-2.0
"""Interventions as data: what is done at hook points, to graphs for as long as they stay, or to one
pass; and activations that are kept on the daemon, which passes can be patched from.

A spec is a name of an operation, or a dict with ``op`` and its options:

    zero (suppress)                 set to 0
    mean, over="rows"|"pos"|both    replaced by the mean of what is selected
    set, value=                     replaced; the value broadcasts from the right
    add, value=, factor=1.0         a steering vector
    scale, factor=                  multiplied
    clamp, min=, max=               limited; either may be left out
    project_out, direction=         what lies along a direction is removed
    patch, source=, source_name=    replaced by what :class:`Activations` have there
    capture, capture_gradient       nothing is changed: a graph's hook keeps it (:attr:`Hook.activations`)

and, for any of them, ``heads``, ``pos`` (negative from the end) and ``rows``, a number or numbers
each; all where they are not given. Unknown keys are errors.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Sequence, Union

from ._arrays import Array, collect_chunks, encode_float
from .errors import NotFoundError
from .v1 import cache_pb2, hooks_pb2, run_pb2

if TYPE_CHECKING:
    from ._cache import ActivationCache
    from ._client import Client
    from ._model import Model

Indices = Union[int, Sequence[int], None]
"""Heads, positions or rows: one, several, or ``None`` for all."""
HookSpec = Union[str, Mapping[str, Any]]
"""An operation by name, or with its options."""
FwdHooks = Union[Sequence[tuple[str, HookSpec]], Mapping[str, HookSpec], None]
"""Hook points, each with what is done there, in order."""

_SELECTION = {"heads": "heads", "pos": "positions", "positions": "positions", "rows": "rows"}
_OVER = {"rows": "over_rows", "batch": "over_rows", "pos": "over_positions", "positions": "over_positions"}


def _mean(over: str | Sequence[str]) -> hooks_pb2.Intervention:
    names = [over] if isinstance(over, str) else list(over)
    if not names or any(name not in _OVER for name in names):
        raise ValueError(f"over must be 'rows', 'pos' or both, not {over!r}")
    mean = hooks_pb2.MeanOperation(**{_OVER[name]: True for name in names})
    return hooks_pb2.Intervention(mean=mean)


def _clamp(min: float = -math.inf, max: float = math.inf) -> hooks_pb2.Intervention:
    return hooks_pb2.Intervention(clamp=hooks_pb2.ClampOperation(low=min, high=max))


def _add(value: Any, factor: float = 1.0) -> hooks_pb2.Intervention:
    # 0 is the protocol's word for 1; adding nothing is scaling by one.
    if factor == 0:
        return hooks_pb2.Intervention(scale=hooks_pb2.ScaleOperation(factor=1.0))
    operation = hooks_pb2.AddOperation(value=encode_float(value), factor=factor)
    return hooks_pb2.Intervention(add=operation)


def _patch(source: "Activations | str", source_name: str = "") -> hooks_pb2.Intervention:
    handle = source.id if isinstance(source, Activations) else source
    operation = hooks_pb2.PatchOperation(activations_id=handle, source_name=source_name)
    return hooks_pb2.Intervention(patch=operation)


def _zero() -> hooks_pb2.Intervention:
    return hooks_pb2.Intervention(zero=hooks_pb2.ZeroOperation())


_OPERATIONS: dict[str, Callable[..., hooks_pb2.Intervention]] = {
    "zero": _zero,
    "suppress": _zero,
    "mean": _mean,
    "set": lambda value: hooks_pb2.Intervention(set=hooks_pb2.SetOperation(value=encode_float(value))),
    "add": _add,
    "scale": lambda factor: hooks_pb2.Intervention(scale=hooks_pb2.ScaleOperation(factor=factor)),
    "clamp": _clamp,
    "project_out": lambda direction: hooks_pb2.Intervention(
        project_out=hooks_pb2.ProjectOutOperation(direction=encode_float(direction))
    ),
    "patch": _patch,
    "capture": lambda: hooks_pb2.Intervention(capture=hooks_pb2.CaptureOperation()),
    "capture_gradient": lambda: hooks_pb2.Intervention(
        capture_gradient=hooks_pb2.CaptureGradientOperation()
    ),
}


def indices_of(value: Any) -> list[int]:
    """:data:`Indices`, or an array of them, as a list; empty for ``None``."""
    if value is None:
        return []
    return [int(number) for number in (value if hasattr(value, "__iter__") else [value])]


def _options_of(spec: HookSpec) -> dict[str, Any]:
    """An operation with its options, as a dict of one's own. ValueError for what is neither."""
    options = {"op": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    if "op" not in options:
        raise ValueError(
            f"a hook is data, not code: give an operation of {sorted(_OPERATIONS)}, or a dict with 'op'"
        )
    return options


def make_intervention(name: str, spec: HookSpec) -> hooks_pb2.Intervention:
    """The protocol's intervention. ValueError for an operation or an option that there is not."""
    if not isinstance(name, str):
        raise ValueError(
            "a hook is at one hook point, by its name: add one for each of "
            "[point.name for point in model.hook_points() if ...]"
        )
    options = _options_of(spec)
    op = options.pop("op")
    if op not in _OPERATIONS:
        raise ValueError(f"op must be one of {sorted(_OPERATIONS)}, not {op!r}")
    selection: dict[str, list[int]] = {}
    for key in [key for key in options if key in _SELECTION]:
        value = options.pop(key)
        if value is not None:
            selection[_SELECTION[key]] = indices_of(value)
    try:
        made = _OPERATIONS[op](**options)
    except TypeError as error:
        raise ValueError(f"{op} at {name!r}: {str(error).split(') ', 1)[-1]}") from None
    made.name = name
    for field, numbers in selection.items():
        if not numbers:
            raise ValueError(f"{op} at {name!r}: {field} is empty; leave it out for all")
        getattr(made, field).extend(numbers)
    return made


def make_interventions(fwd_hooks: FwdHooks) -> list[hooks_pb2.Intervention]:
    """Those of a pass, in order."""
    pairs = fwd_hooks.items() if isinstance(fwd_hooks, Mapping) else fwd_hooks or ()
    return [make_intervention(name, spec) for name, spec in pairs]


class Hook:
    """An intervention of a graph, from ``graph.add_hook``. A ``with`` block removes it at its end."""

    def __init__(self, client: "Client", graph_id: str, proto: hooks_pb2.Hook, model: "Model"):
        inner = proto.intervention
        self.client = client
        self._model = model
        self.graph_id = graph_id
        self.id: str = proto.hook_id
        """Its id in its graph."""
        self.name: str = inner.name
        """TransformerLens's name of its hook point."""
        self.bridge_name: str = proto.bridge_name
        """The name in TransformerLens 4's bridge; empty where there is none."""
        self.op: str = inner.WhichOneof("operation")
        """``"zero"``, ``"mean"``, ..."""
        self.heads: tuple[int, ...] = tuple(inner.heads)
        """The heads it is about; empty for all, as the next two."""
        self.positions: tuple[int, ...] = tuple(inner.positions)
        self.rows: tuple[int, ...] = tuple(inner.rows)

    @property
    def activations(self) -> "Activations | None":
        """Of a ``capture`` or ``capture_gradient``: what the graph's last run had there, one tensor, kept
        on the daemon until the next run or until the hook goes; None before the first run. Jobs and
        sweeps, whose passes are many, keep nothing and leave what there is. Raises
        :class:`ablate.NotFoundError` when the hook is gone.
        """
        response = self.client._call("ListHooks", run_pb2.ListHooksRequest(graph_id=self.graph_id))
        found = [proto for proto in response.hooks if proto.hook_id == self.id]
        if not found:
            raise NotFoundError(f"{self.graph_id} has no hook '{self.id}' any more", "HOOK_ID_UNKNOWN")
        if not found[0].activations_id:
            return None
        kept = list_activations(self._model)
        return next((each for each in kept if each.id == found[0].activations_id), None)

    def remove(self) -> None:
        """Removes it, and what it kept. Raises :class:`ablate.NotFoundError` (``HOOK_ID_UNKNOWN``) the second time."""
        request = run_pb2.RemoveHookRequest(graph_id=self.graph_id, hook_id=self.id)
        self.client._call("RemoveHook", request)

    def __enter__(self) -> "Hook":
        return self

    def __exit__(self, *_: object) -> None:
        # What the block removed itself is gone, as it should be.
        with contextlib.suppress(NotFoundError):
            self.remove()

    def __repr__(self) -> str:
        chosen = [
            f"{what}={list(getattr(self, what))}"
            for what in ("heads", "positions", "rows")
            if getattr(self, what)
        ]
        return f"<ablate.Hook {self.id}: {' '.join([self.op, self.name, *chosen])}>"

    def _repr_html_(self) -> str:
        from ._html import hook

        return hook(self)


class GraphHooks:
    """The part of :class:`Graph` that intervenes. Interventions belong to the graph: others over the same
    model do not see them.
    """

    client: "Client"
    id: str
    model: "Model"

    def add_hook(
        self,
        /,
        name: str,
        op: HookSpec,
        *,
        heads: Indices = None,
        pos: Indices = None,
        rows: Indices = None,
        **options: Any,
    ) -> Hook:
        """Adds an intervention behind those that are there; it acts in every later run of this graph:
        passes, gradients at masks, jobs, and sweeps with their scores.

        ``op`` and ``options`` as the module says (and ``"capture"``, which keeps what each pass has
        there: read it with :attr:`Hook.activations`): ``graph.add_hook("blocks.0.attn.hook_z", "zero",
        heads=[3])``, ``graph.add_hook(name, "add", value=vector, factor=4.0, pos=-1)``.

        Raises :class:`ablate.NotFoundError` (``HOOK_UNKNOWN``), :class:`ablate.FailedPreconditionError`
        (``HOOK_CANNOT_FIRE``), and :class:`ablate.InvalidArgumentError` (``HOOK_HEADS``,
        ``HOOK_VALUE_SHAPE``, ``HOOKS_OVERLAP``, ...); ValueError for options that the op has not.
        """
        spec = _options_of(op)
        for key, value in {"heads": heads, "pos": pos, "rows": rows}.items():
            if value is not None:
                spec[key] = value
        request = run_pb2.AddHookRequest(
            graph_id=self.id, intervention=make_intervention(name, spec | options)
        )
        return Hook(self.client, self.id, self.client._call("AddHook", request).hook, self.model)

    def hooks(self) -> list[Hook]:
        """The interventions, in the order in which they apply."""
        response = self.client._call("ListHooks", run_pb2.ListHooksRequest(graph_id=self.id))
        return [Hook(self.client, self.id, proto, self.model) for proto in response.hooks]

    def reset_hooks(self) -> int:
        """Removes all of them; returns how many there were."""
        request = run_pb2.ResetHooksRequest(graph_id=self.id)
        response: run_pb2.ResetHooksResponse = self.client._call("ResetHooks", request)
        return response.removed_count


class Activations(Mapping[str, tuple[int, ...]]):
    """Activations that ``run_with_cache(..., keep_on_server=True)`` left on the daemon: names and
    shapes. :meth:`fetch` brings them here; the ``patch`` operation takes them there.
    """

    def __init__(self, model: "Model", proto: cache_pb2.Activations):
        self.client = model.client
        self._model = model
        self.id: str = proto.activations_id
        """The handle."""
        self.model_id: str = proto.model_id
        """The model that they are of."""
        self.bytes: int = proto.bytes
        """Bytes on the device."""
        self.scalar: float | None = None
        """What gradients among them are of, where this handle came with the pass."""
        self._shapes = {tensor.name: tuple(tensor.shape) for tensor in proto.tensors}

    def fetch(self, *names: str) -> "ActivationCache":
        """The tensors of those names, or all. Raises :class:`ablate.NotFoundError` (``HOOK_UNKNOWN``)."""
        from ._cache import ActivationCache

        return ActivationCache(self._read(names), self._model)

    def _read(self, names: Sequence[str]) -> dict[str, Array]:
        request = cache_pb2.GetActivationsRequest(activations_id=self.id, names=names)
        stream = self.client._call("GetActivations", request)
        return dict(collect_chunks((message.chunk for message in stream), self.client.arrays))

    def delete(self) -> None:
        """Ends them. Raises :class:`ablate.FailedPreconditionError` (``ACTIVATIONS_IN_USE``)."""
        self.client._call(
            "DeleteActivations", cache_pb2.DeleteActivationsRequest(activations_id=self.id)
        )

    def __enter__(self) -> "Activations":
        return self

    def __exit__(self, *_: object) -> None:
        self.delete()

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __repr__(self) -> str:
        return f"<ablate.Activations {self.id} of {self.model_id}: {list(self._shapes)}>"

    def _repr_html_(self) -> str:
        from ._html import shapes, size

        return shapes(f"ablate.Activations {self.id}: {len(self)}, {size(self.bytes)}", self.items())


def list_activations(model: "Model") -> list[Activations]:
    """Those that the daemon keeps."""
    request = cache_pb2.ListActivationsRequest(model_id=model.id)
    pages = model.client._pages("ListActivations", request, "activations")
    return [Activations(model, proto) for proto in pages]


def positions_of(pos_slice: Any, length: Callable[[], int]) -> list[int]:
    """TransformerLens's ``pos_slice``: a position, positions, a slice, or ``(start, stop[, step])``.
    The axis stays, also for one position.
    """
    if pos_slice is None:
        return []
    if isinstance(pos_slice, tuple):
        pos_slice = slice(*pos_slice)
    if isinstance(pos_slice, slice):
        positions = list(range(length()))[pos_slice]
    else:
        numbers = pos_slice if hasattr(pos_slice, "__iter__") else [pos_slice]
        positions = [int(number) for number in numbers]
    if not positions:
        raise ValueError(f"pos_slice {pos_slice!r} leaves no position")
    return positions


def make_gradient_of(gradient_of: Any) -> run_pb2.GradientOf | None:
    """``"loss"`` or None; or answers, each row ``(answers, wrong_answers)`` of token ids."""
    if gradient_of is None or (isinstance(gradient_of, str) and gradient_of == "loss"):
        return None
    if isinstance(gradient_of, str):
        raise ValueError(f"gradient_of must be 'loss' or rows of token ids, not {gradient_of!r}")

    def ids(value: Any) -> list[int]:
        return [int(number) for number in (value if hasattr(value, "__iter__") else [value])]

    rows = [
        run_pb2.AnswerIds(answers=ids(answers), wrong_answers=ids(wrong))
        for answers, wrong in gradient_of
    ]
    return run_pb2.GradientOf(answer_diff=run_pb2.AnswerDiff(rows=rows))


def kept(model: "Model", activations_id: str, scalar: float) -> Activations:
    """The handle that a pass came back with."""
    for activations in list_activations(model):
        if activations.id == activations_id:
            activations.scalar = scalar
            return activations
    raise KeyError(f"{activations_id} was deleted already")
