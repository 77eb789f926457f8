# SPDX-License-Identifier: Apache-2.0
"""Datasets of clean and corrupt prompt pairs, in AutoCircuit's JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Union

from .v1 import dataset_pb2

if TYPE_CHECKING:
    from ._client import Client


class Dataset:
    """A dataset that the daemon keeps, from :meth:`Client.upload_dataset`."""

    def __init__(self, client: "Client", proto: dataset_pb2.Dataset):
        self.client = client
        self.id: str = proto.dataset_id
        """The handle."""
        self.name: str = proto.name
        self.hash: str = proto.hash
        """sha256 of the uploaded bytes, lower-case hex."""
        self.prompt_count: int = proto.prompt_count
        """Number of prompt pairs."""
        self.seq_labels: list[str] = list(proto.seq_labels)
        """Labels of the token positions, without BOS, if the file has them."""

    def delete(self) -> None:
        """Ends the dataset. Raises :class:`ablate.FailedPreconditionError` (``DATASET_IN_USE``)."""
        self.client._call(
            "DeleteDataset", dataset_pb2.DeleteDatasetRequest(dataset_id=self.id)
        )

    def _repr_html_(self) -> str:
        from ._html import dataset

        return dataset(self)

    def __len__(self) -> int:
        return self.prompt_count

    def __repr__(self) -> str:
        return f"<ablate.Dataset {self.name!r} ({self.id}): {self.prompt_count} prompt pairs>"


DatasetLike = Union[Dataset, str, bytes, os.PathLike[str], Mapping[str, Any]]
"""A dataset: kept already, a path, JSON text or bytes, or what that JSON stands for."""


def dataset_bytes(source: Union[str, bytes, os.PathLike[str], Mapping[str, Any]]) -> tuple[str, bytes]:
    """(a name for people, the JSON) of a path, dict, JSON text or bytes."""
    if isinstance(source, bytes):
        return "dataset", source
    if isinstance(source, Mapping):
        return "dataset", json.dumps(source, ensure_ascii=False).encode()
    if isinstance(source, str) and source.lstrip()[:1] in ("{", "["):
        return "dataset", source.encode()
    path = Path(source)
    return path.stem, path.read_bytes()
