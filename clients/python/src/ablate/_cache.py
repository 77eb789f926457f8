# SPDX-License-Identifier: Apache-2.0
"""TransformerLens's ActivationCache. What stays on the daemon is fetched when it is read, and ended
there when the last reference here is gone.
"""

from __future__ import annotations

import collections
import weakref
from typing import TYPE_CHECKING, Any, Iterator, Literal, Mapping, Sequence, Union, overload

import numpy as np

from ._arrays import Array, to_backend, to_numpy
from ._names import bridge_name, get_act_name
from .errors import AblateError, NotFoundError
from .v1 import cache_pb2

if TYPE_CHECKING:
    from ._hooks import Activations
    from ._model import Model
    from ._rpc import Channel

PosSlice = Union[int, slice, Sequence[int], None]
"""TransformerLens's: an int drops the axis; a slice, ``(start, stop[, step])`` and a list keep it."""
_NORMALIZED = ("LN", "LNPre", "RMS", "RMSPre")


class ActivationCache(Mapping[str, Array]):
    """Activations by hook point name, in the order in which they fired.

    ``cache["blocks.3.hook_resid_post"]``, ``cache["resid_post", 3]`` and ``cache["resid_post", -1]``
    are the same array in a model of four layers. The batch dimension is always there.

    From ``run_with_cache(input)`` or with a predicate it is lazy: the activations stay on the daemon,
    each is fetched once, when it is read, and they are ended there with this object (or the model).
    ``fetched`` says which are here. Stacks are made of what they need and nothing else; weights,
    too, are read only where a method says so.
    """

    def __init__(
        self,
        arrays: dict[str, Array],
        model: "Model",
        source: "Activations | None" = None,
    ):
        self.scalar: float | None = None
        """With gradients: what they are of."""
        self.model = model
        """The model that they are of."""
        self._arrays = arrays
        self._source = source
        self._names = list(arrays if source is None else source)
        self._synonyms: dict[str, str] = {}
        for name in self._names:
            stem = name.removesuffix("_grad")
            if bridge := bridge_name(stem):
                self._synonyms[bridge + name[len(stem) :]] = name

    # --- a mapping ------------------------------------------------------------------------

    @overload
    def __getitem__(self, key: str) -> Array: ...
    @overload
    def __getitem__(self, key: tuple[Any, ...]) -> Array: ...
    def __getitem__(self, key: Any) -> Array:
        name = self._find(key)
        if name is None:
            raise KeyError(f"{self._full(key)} was not captured; pass it in names_filter")
        self._fetch([name])
        return self._arrays[name]

    def _full(self, key: Any) -> str:
        if isinstance(key, tuple):
            parts = list(key)
            if len(parts) > 1 and isinstance(parts[1], int) and parts[1] < 0:
                parts[1] += self.model.cfg.n_layers
            return get_act_name(*parts)
        return str(key)

    def _find(self, key: Any) -> str | None:
        name = self._full(key)
        for candidate in (name, get_act_name(name)):
            candidate = self._synonyms.get(candidate, candidate)
            if candidate in self._arrays or self._source is not None and candidate in self._source:
                return candidate
        return None

    def _fetch(self, names: Sequence[str]) -> None:
        missing = [name for name in names if name not in self._arrays]
        if not missing or self._source is None:
            return
        try:
            self._arrays.update(self._source._read(missing))
        except NotFoundError as error:
            if error.reason != "ACTIVATIONS_UNKNOWN":
                raise
            raise NotFoundError(
                "the activations that this cache had not read yet are gone: the model was unloaded or "
                "the daemon restarted; run the pass again",
                error.reason,
            ) from None

    def __contains__(self, key: object) -> bool:
        return self._find(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def fetched(self) -> list[str]:
        """Names of the activations that are here."""
        return [name for name in self._names if name in self._arrays]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name; nothing is fetched for them."""
        there = {} if self._source is None else dict(self._source)
        return {name: tuple(self._arrays[name].shape) if name in self._arrays else there[name] for name in self._names}

    def __repr__(self) -> str:
        return f"ActivationCache with {len(self)} hook points, {len(self.fetched)} fetched: {self._names}"

    def _repr_html_(self) -> str:
        from ._html import activation_cache

        return activation_cache(self)

    # --- stacks ---------------------------------------------------------------------------

    def stack_activation(
        self, activation_name: str, layer: int | None = -1, sublayer_type: str | None = None
    ) -> Array:
        """One activation of all layers below ``layer`` (-1 or None: all): ``[layers, ...]``.

        Raises KeyError for one that was not captured.
        """
        keys = [(activation_name, below, sublayer_type) for below in range(self._layer(layer))]
        return _stack(self._all(keys))

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: PosSlice = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """The residual stream before each layer up to ``layer``, and with ``incl_mid`` between its
        sublayers: ``[components, batch, pos, d_model]``, for the logit lens.

        ``layer`` None or -1: all, to the stream that is unembedded. ``mlp_input``: what the MLP of
        ``layer`` reads, too. With ``return_labels`` also ``["0_pre", "0_mid", ..., "final_post"]``.
        Raises KeyError for an activation that was not captured.
        """
        top = self._layer(layer)
        keys: list[tuple[Any, ...]] = []
        labels: list[str] = []
        for below in range(top + 1):
            if below == self.model.cfg.n_layers:
                keys.append(("resid_post", below - 1))
                labels.append("final_post")
                continue
            keys.append(("resid_pre", below))
            labels.append(f"{below}_pre")
            if mlp_input if below == top else incl_mid:
                keys.append(("resid_mid", below))
                labels.append(f"{below}_mid")
        return self._finish(self._cut(keys, pos_slice), top, mlp_input, apply_ln, pos_slice, labels, return_labels)

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "mlp", "attn"] = "all",
        apply_ln: bool = False,
        pos_slice: PosSlice = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """What each sublayer below ``layer`` added to the residual stream:
        ``[components, batch, pos, d_model]``. With ``mode="all"`` their sum is what ``layer`` reads.

        ``layer`` None or -1: all. ``mlp_input``: the attention of ``layer``, too. With
        ``return_labels`` also ``["embed", "pos_embed", "0_attn_out", "0_mlp_out", ...]``.
        Raises KeyError for an activation that was not captured, ValueError for an unknown ``mode``.
        """
        if mode not in ("all", "mlp", "attn"):
            raise ValueError(f"mode must be 'all', 'mlp' or 'attn', not {mode!r}")
        top = self._layer(layer)
        keys: list[tuple[Any, ...]] = []
        labels: list[str] = []
        for name in ("embed", "pos_embed") if incl_embeds else ():
            if f"hook_{name}" in self:
                keys.append((name,))
                labels.append(name)
        for below in range(top + bool(mlp_input)):
            if mode != "mlp":
                keys.append(("attn_out", below))
                labels.append(f"{below}_attn_out")
            if mode != "attn" and below < top and not self.model.cfg.attn_only:
                keys.append(("mlp_out", below))
                labels.append(f"{below}_mlp_out")
        return self._finish(self._cut(keys, pos_slice), top, mlp_input, apply_ln, pos_slice, labels, return_labels)

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: PosSlice = None,
        apply_ln: bool = False,
    ) -> Any:
        """What each head below ``layer`` added to the residual stream, without the output bias:
        ``[layers * heads, batch, pos, d_model]``, with ``incl_remainder`` one more row, the rest.

        Of ``hook_result`` where it was captured, else of ``hook_z`` and the ``W_O`` of each layer. With
        ``return_labels`` also ``["L0H0", "L0H1", ..., "remainder"]``.
        Raises KeyError for an activation that was not captured.
        """
        top = self._layer(layer)
        labels = [f"L{below}H{head}" for below in range(top) for head in range(self.model.cfg.n_heads)]
        have = [self._find(("result", below)) is not None for below in range(top)]
        inputs = self._all([("result" if have[below] else "z", below) for below in range(top)])
        parts = []
        for below, array in enumerate(inputs):
            array = _slice(array, pos_slice, -3)
            if not have[below]:  # (..., head, d_head) by (head, d_head, d_model)
                weights = self.model.blocks[below].attn.W_O
                array = (array[..., None, :] @ _as(weights, array))[..., 0, :]
            parts += [array[..., head, :] for head in range(array.shape[-2])]
        if incl_remainder or not parts:
            whole = self["resid_post", top - 1] if top else self["resid_pre", 0]
            whole = _slice(whole, pos_slice, -2)
            if not parts and not incl_remainder:
                return self._finish([whole], top, False, False, None, [], return_labels, keep=0)
            parts.append(whole - sum(parts))
            labels.append("remainder")
        return self._finish(parts, top, False, apply_ln, pos_slice, labels, return_labels)

    def apply_ln_to_stack(
        self,
        residual_stack: Array,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: PosSlice = None,
        batch_slice: PosSlice = None,
        has_batch_dim: bool = True,
    ) -> Array:
        """A stack ``[components, batch, pos, d_model]`` as the norm before ``layer`` scales it: with the
        scale of the pass, and centred where the norm centres. None or -1: the norm before the unembedding.

        ``pos_slice`` has been applied to the stack already, ``batch_slice`` has not. Reads one
        ``hook_scale``; a model without norms gives the stack back.
        """
        if self.model.cfg.normalization_type not in _NORMALIZED:
            return residual_stack
        top = self._layer(layer)
        if has_batch_dim:
            residual_stack = _slice(residual_stack, batch_slice, 1)
        if self.model.cfg.normalization_type.startswith("LN"):
            residual_stack = residual_stack - residual_stack.mean(-1)[..., None]
        if top == self.model.cfg.n_layers:
            scale = self["ln_final.hook_scale"]
        else:
            scale = self[f"blocks.{top}.ln{2 if mlp_input else 1}.hook_scale"]
        scale = _slice(_slice(scale, pos_slice, -2), batch_slice, 0)
        return residual_stack / _as(scale, residual_stack)

    def logit_attrs(
        self,
        residual_stack: Array,
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: PosSlice = None,
        batch_slice: PosSlice = None,
        has_batch_dim: bool = True,
    ) -> Array:
        """What each component of a stack adds to the logit of a token, or to the difference of two:
        ``[components, batch, pos]``.

        ``tokens``: a text that is one token, an id, or ids ``[batch]`` or ``[batch, pos]`` that fit the
        stack. Without the unembedding's bias. Reads the final ``hook_scale`` and those columns of
        ``W_U`` that the tokens name.

        Raises ValueError for a text of several tokens, and where the two differ in shape.
        """
        directions = self._directions(tokens)
        if incorrect_tokens is not None:
            wrong = self._directions(incorrect_tokens)
            if directions.shape != wrong.shape:
                raise ValueError(
                    f"tokens and incorrect_tokens must be of one shape, not {tuple(directions.shape[:-1])} "
                    f"and {tuple(wrong.shape[:-1])}"
                )
            directions = directions - wrong
        scaled = self.apply_ln_to_stack(
            residual_stack, -1, pos_slice=pos_slice, batch_slice=batch_slice, has_batch_dim=has_batch_dim
        )
        return (scaled * _as(directions, scaled)).sum(-1)

    # --- how --------------------------------------------------------------------------------

    def _directions(self, tokens: Any) -> Array:
        """What of the residual stream makes tokens likely: ``[..., d_model]``, ``[d_model]`` for one."""
        if isinstance(tokens, str):
            tokens = self.model.to_single_token(tokens)
        elif isinstance(tokens, (list, tuple)) and tokens and isinstance(tokens[0], str):
            tokens = [self.model.to_single_token(token) for token in tokens]
        ids = to_numpy(tokens)
        if not np.issubdtype(ids.dtype, np.integer):
            raise TypeError(f"token ids must be integers, not {ids.dtype}")
        flat, places = np.unique(ids.reshape(-1), return_inverse=True)
        columns = to_numpy(self.model.parameters().columns("unembed.W_U", flat.tolist()))
        shape = () if ids.size == 1 else ids.shape
        rows = np.ascontiguousarray(columns.T[places.reshape(-1)].reshape(*shape, columns.shape[0]))
        return to_backend(rows, self.model.client.arrays)

    def _layer(self, layer: int | None) -> int:
        n_layers = self.model.cfg.n_layers
        if layer is None or layer == -1:
            return n_layers
        if not 0 <= layer <= n_layers:
            raise ValueError(f"layer must be from 0 to {n_layers}, -1 or None, not {layer}")
        return layer

    def _all(self, keys: Sequence[tuple[Any, ...]]) -> list[Array]:
        """Several activations, of which those that are not here come in one call."""
        self._fetch([name for key in keys if (name := self._find(key)) is not None])
        return [self[key] for key in keys]

    def _cut(self, keys: Sequence[tuple[Any, ...]], pos_slice: PosSlice) -> list[Array]:
        return [_slice(array, pos_slice, -2) for array in self._all(keys)]

    def _finish(
        self,
        parts: list[Array],
        layer: int,
        mlp_input: bool,
        apply_ln: bool,
        pos_slice: PosSlice,
        labels: list[str],
        return_labels: bool,
        keep: int | None = None,
    ) -> Any:
        stack = _stack(parts)[:keep]
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, mlp_input=mlp_input, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack


def _stack(arrays: list[Array]) -> Array:
    if not arrays:
        raise ValueError("there is nothing to stack below layer 0")
    if hasattr(arrays[0], "detach"):
        import torch

        return torch.stack(arrays)
    return np.stack(arrays)


def _as(array: Array, like: Array) -> Array:
    """In the element type of another, which weights of half precision need."""
    return array.to(like.dtype) if hasattr(array, "detach") else array.astype(like.dtype, copy=False)


def _slice(array: Array, index: PosSlice, axis: int) -> Array:
    if index is None:
        return array
    if isinstance(index, tuple):
        index = slice(*index)
    elif not isinstance(index, (int, slice)):
        index = [int(number) for number in index]
    where: list[Any] = [slice(None)] * array.ndim
    where[axis] = index
    return array[tuple(where)]


class Lazy:
    """What a client's lazy caches keep on the daemon. Finalizers only note what can go: they may run
    inside a call, so the next call (or the end) tells the daemon.
    """

    def __init__(self, channel: "Channel"):
        self._channel = channel
        self._held: dict[str, str] = {}  # handle to model
        self._dropped: collections.deque[str] = collections.deque()

    def hold(self, cache: ActivationCache, source: "Activations") -> None:
        """The activations end some time after the cache does."""
        self._held[source.id] = source.model_id
        weakref.finalize(cache, self._dropped.append, source.id).atexit = False

    def sweep(self) -> None:
        """Ends what was dropped."""
        while self._dropped:
            self._end(self._dropped.popleft())

    def end(self, model_id: str | None = None) -> None:
        """Ends all, or those of a model, though caches may still refer to them."""
        for handle in [h for h, model in self._held.items() if model_id in (None, model)]:
            self._end(handle)

    def _end(self, handle: str) -> None:
        if self._held.pop(handle, None) is None:
            return
        try:
            request = cache_pb2.DeleteActivationsRequest(activations_id=handle)
            self._channel.call("DeleteActivations", request, 5.0)
        except AblateError:  # gone with its model or its daemon, or an intervention's source
            pass
