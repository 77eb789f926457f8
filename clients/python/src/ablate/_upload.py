# SPDX-License-Identifier: Apache-2.0
"""What an upload sends: config.json, one safetensors stream, tokenizer.json. Sharded folders and
dicts of arrays are written as one safetensors file on the way, never as a whole in memory.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Union

import numpy as np

UploadSource = Union[str, os.PathLike[str], tuple[Any, Any]]
"""A folder, or (config, tensors)."""
_CHUNK_BYTES = 512 << 10
_NUMPY_TO_SAFETENSORS = {"float32": "F32", "float16": "F16"}
# name, safetensors dtype, shape, and a function that yields the bytes
_Tensor = tuple[str, str, tuple[int, ...], Callable[[], Iterator[bytes]]]


def upload_messages(
    source: UploadSource, tokenizer: Any
) -> tuple[str, int, Iterator[tuple[str, bytes]]]:
    """(a name for people, bytes in all, pieces of files in the order in which they travel)."""
    files: list[tuple[str, int, Callable[[], Iterator[bytes]]]] = []
    if isinstance(source, tuple):
        config, tensors = source
        label = "uploaded"
        files.append(_text_file("config.json", config))
        if isinstance(tensors, (bytes, bytearray, memoryview)):
            files.append(("model.safetensors", len(tensors), _slices(memoryview(tensors))))
        else:
            files.append(_safetensors_file([_array_tensor(k, v) for k, v in tensors.items()]))
    else:
        folder = Path(source)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder with config.json and safetensors")
        label = folder.resolve().name
        files.append(_text_file("config.json", folder / "config.json"))
        files.append(_folder_weights(folder))
        for optional in ("tokenizer.json", "tokenizer_config.json"):
            if (folder / optional).is_file() and not (tokenizer and optional == "tokenizer.json"):
                files.append(_text_file(optional, folder / optional))
    if tokenizer is not None:
        files.append(_text_file("tokenizer.json", tokenizer))

    def pieces() -> Iterator[tuple[str, bytes]]:
        for name, _, read in files:
            for piece in read():
                yield name, piece

    return label, sum(size for _, size, _ in files), pieces()


def _slices(data: memoryview) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        for start in range(0, len(data), _CHUNK_BYTES):
            yield bytes(data[start : start + _CHUNK_BYTES])

    return read


def _text_file(name: str, content: Any) -> tuple[str, int, Callable[[], Iterator[bytes]]]:
    if isinstance(content, Mapping):
        data = json.dumps(content, ensure_ascii=False).encode()
    elif isinstance(content, bytes):
        data = content
    elif isinstance(content, str) and content.lstrip().startswith("{"):
        data = content.encode()
    else:
        data = Path(content).read_bytes()
    return name, len(data), _slices(memoryview(data))


def _array_tensor(name: str, array: Any) -> _Tensor:
    if hasattr(array, "detach"):
        array = array.detach().cpu().contiguous()
        if str(array.dtype) == "torch.bfloat16":
            import torch

            words = array.view(torch.int16).numpy()
            return name, "BF16", tuple(array.shape), lambda: iter([words.tobytes()])
        array = array.numpy()
    array = np.asarray(array)
    if array.dtype.name not in _NUMPY_TO_SAFETENSORS:
        raise TypeError(f"tensor {name!r} is {array.dtype}; weights are float32, float16 or bfloat16")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    dtype = _NUMPY_TO_SAFETENSORS[array.dtype.name]
    return name, dtype, array.shape, lambda: iter([little.tobytes()])


_WIDTH = {"F32": 4, "F16": 2, "BF16": 2}


def _safetensors_file(tensors: list[_Tensor]) -> tuple[str, int, Callable[[], Iterator[bytes]]]:
    header: dict[str, Any] = {}
    offset = 0
    for name, dtype, shape, _ in tensors:
        if dtype not in _WIDTH:
            raise TypeError(f"tensor {name!r} is {dtype}; weights are F32, F16 or BF16")
        size = _WIDTH[dtype] * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def read() -> Iterator[bytes]:
        yield len(text).to_bytes(8, "little")
        yield from _slices(memoryview(text))()
        for _, _, _, data in tensors:
            for piece in data():
                yield from _slices(memoryview(piece))()

    return "model.safetensors", 8 + len(text) + offset, read


def _file_range(path: Path, start: int, size: int) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(start)
            left = size
            while left > 0:
                piece = file.read(min(left, _CHUNK_BYTES))
                if not piece:
                    raise ValueError(f"{path} ends {left} bytes early")
                left -= len(piece)
                yield piece

    return read


def _folder_weights(folder: Path) -> tuple[str, int, Callable[[], Iterator[bytes]]]:
    whole = folder / "model.safetensors"
    if whole.is_file():
        size = whole.stat().st_size
        return "model.safetensors", size, _file_range(whole, 0, size)
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise FileNotFoundError(f"{folder} has neither model.safetensors nor its index.json")
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    tensors: list[_Tensor] = []
    for shard in shards:
        path = folder / Path(shard).name
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                data = _file_range(path, 8 + length + start, end - start)
                tensors.append((name, entry["dtype"], tuple(entry["shape"]), data))
    return _safetensors_file(tensors)
