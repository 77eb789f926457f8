# SPDX-License-Identifier: Apache-2.0
"""Tensors on the wire and in the notebook: little-endian bytes here, torch or numpy there."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any, Iterable, Iterator, Literal, Sequence, Union

import numpy as np

from .v1 import common_pb2

Backend = Literal["auto", "torch", "numpy"]
Array = Any
"""A ``torch.Tensor`` where torch is importable, else a ``numpy.ndarray``."""
Tokens = Union[Array, Sequence[int], Sequence[Sequence[int]]]
"""Token ids: ``[seq]`` or ``[batch, seq]``."""
Prompt = Union[str, Sequence[str], Tokens]
"""What a forward pass takes: text, texts, or token ids."""

_WIRE_TO_NUMPY: dict[int, np.dtype[Any]] = {
    common_pb2.DTYPE_FLOAT32: np.dtype("<f4"),
    common_pb2.DTYPE_FLOAT16: np.dtype("<f2"),
    common_pb2.DTYPE_BFLOAT16: np.dtype("<u2"),  # raw words; widened below
    common_pb2.DTYPE_INT32: np.dtype("<i4"),
}


@functools.lru_cache(maxsize=None)
def resolve_backend(backend: Backend) -> str:
    """``"torch"`` or ``"numpy"``; ``"auto"`` prefers torch. Torch is imported when first needed."""
    if backend == "auto":
        return "torch" if importlib.util.find_spec("torch") is not None else "numpy"
    if backend not in ("torch", "numpy"):
        raise ValueError(f"arrays must be 'auto', 'torch' or 'numpy', not {backend!r}")
    return backend


def to_backend(array: np.ndarray, backend: Backend) -> Array:
    """A numpy array as the chosen kind of array; no copy where the bytes can be shared."""
    if resolve_backend(backend) == "numpy":
        return array
    import torch

    return torch.from_numpy(array)


def to_numpy(array: Any) -> np.ndarray:
    """Anything array-like as numpy: torch on any device, DLPack, lists."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":
            array = array.float()
        array = array.numpy()
    return np.asarray(array)


def decode(dtype: int, shape: Sequence[int], data: bytes | bytearray, backend: Backend) -> Array:
    """Bytes of the wire as an array; bfloat16 is widened to float32 for numpy."""
    if dtype not in _WIRE_TO_NUMPY:
        raise ValueError(f"the daemon sent dtype {dtype}, which this client does not know")
    # bytearray keeps the array writable without another copy.
    flat = np.frombuffer(data if isinstance(data, bytearray) else bytearray(data), _WIRE_TO_NUMPY[dtype])
    array = flat.reshape(tuple(shape))
    if dtype == common_pb2.DTYPE_BFLOAT16:
        if resolve_backend(backend) == "torch":
            import torch

            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return to_backend(array, backend)


def encode_float(array: Any) -> common_pb2.Tensor:
    """Any array of numbers as a float32 tensor."""
    values = np.ascontiguousarray(to_numpy(array), dtype="<f4")
    return common_pb2.Tensor(
        dtype=common_pb2.DTYPE_FLOAT32, shape=values.shape, data=values.tobytes()
    )


def encode_tokens(tokens: Tokens) -> common_pb2.Tensor:
    """Token ids as int32 ``[batch, seq]``; ``[seq]`` becomes a batch of one."""
    if isinstance(tokens, (list, tuple)):
        if any(isinstance(row, str) for row in tokens):
            raise ValueError("a batch is of texts or of token ids, not of both")
        lengths = {len(row) if hasattr(row, "__len__") else 0 for row in tokens}
        if len(lengths) > 1:
            raise ValueError(
                f"the prompts of a batch have one length; these have {', '.join(map(str, sorted(lengths)))} tokens"
            )
    values = to_numpy(tokens)
    if values.size and not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"token ids must be integers, not {values.dtype}")
    if values.ndim == 1:
        values = values[None]
    if values.ndim != 2:
        raise ValueError(f"token ids must be [seq] or [batch, seq], not of shape {values.shape}")
    if values.size and not -(2**31) <= int(values.min()) <= int(values.max()) < 2**31:
        raise ValueError("token ids must fit 32 bits")
    values = np.ascontiguousarray(values, dtype="<i4")
    return common_pb2.Tensor(dtype=common_pb2.DTYPE_INT32, shape=values.shape, data=values.tobytes())


def bos_policy(prepend_bos: bool | None) -> common_pb2.BosPolicy:
    """None: the model's default."""
    if prepend_bos is None:
        return common_pb2.BOS_POLICY_UNSPECIFIED
    return common_pb2.BOS_POLICY_PREPEND if prepend_bos else common_pb2.BOS_POLICY_NONE


def encode_prompts(prompt: Prompt, prepend_bos: bool | None) -> common_pb2.Prompts:
    """Text or token ids as a request takes them. ``prepend_bos`` has no effect on ids."""
    if isinstance(prompt, str):
        prompt = [prompt]
    texts = [p for p in prompt if isinstance(p, str)] if isinstance(prompt, (list, tuple)) else []
    if texts and len(texts) == len(prompt):
        text = common_pb2.TextPrompts(prompts=texts, bos=bos_policy(prepend_bos))
        return common_pb2.Prompts(text=text)
    return common_pb2.Prompts(tokens=encode_tokens(prompt))


def collect_chunks(
    chunks: Iterable[common_pb2.TensorChunk], backend: Backend
) -> Iterator[tuple[str, Array]]:
    """Puts the pieces of a stream together: yields each (name, array) when its last piece is there.

    Raises ValueError if pieces are missing or out of order.
    """
    name, buffer = None, bytearray()
    for chunk in chunks:
        if name is None:
            name, buffer = chunk.name, bytearray()
        if chunk.name != name or chunk.offset_bytes != len(buffer):
            raise ValueError(
                f"piece of {chunk.name!r} at byte {chunk.offset_bytes} after {len(buffer)} of {name!r}"
            )
        buffer += chunk.data
        if chunk.is_last:
            yield name, decode(chunk.dtype, chunk.shape, buffer, backend)
            name = None
    if name is not None:
        raise ValueError(f"the stream ended inside {name!r}")
