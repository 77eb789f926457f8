# SPDX-License-Identifier: Apache-2.0
"""The daemon that this package's functions use, whose arguments AutoCircuit has no place for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .. import hooked
from .._client import Client, connect
from .._model import Model

_client: Client | None = None


def use(client: Client | None) -> None:
    """From now on models are loaded and uploaded here; None: a connection is made when one is needed."""
    global _client
    _client = client


def client() -> Client:
    """The connection that is used, made if there is none: ``ablate.connect()``.

    Raises :class:`ablate.UnavailableError` if no daemon answers.
    """
    global _client
    if _client is None:
        _client = connect()
    return _client


def on_daemon(model: Any) -> Model:
    """A model on the daemon, uploaded if it is not there: a Hugging Face folder, a HookedTransformer, a
    Hugging Face model. Configuration and safetensors travel, never code.

    Raises TypeError for anything else, TransformerLens 4's TransformerBridge included.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, (str, os.PathLike)):
        if not Path(model).is_dir():
            raise TypeError(f"{model!r} is not a folder; a model by name is load_tl_model(name, device)")
        return client().upload_model(model, progress=False)
    if hasattr(model, "original_model"):
        raise TypeError(
            f"a {type(model).__name__} has taken its Hugging Face model apart: give the model's folder, or the model "
            "as from_pretrained gives it; a TransformerLens 4 program on the daemon is ablate.transformer_lens.boot"
        )
    parts = set(getattr(model, "state_dict", dict)())
    if "unembed.W_U" in parts and hasattr(model, "cfg"):
        return hooked.upload(client(), model, tokenizer=_tokenizer(model), progress=False)
    if hasattr(model, "config") and hasattr(model.config, "to_dict"):
        config = json.loads(json.dumps(model.config.to_dict(), default=str))
        name = Path(getattr(model.config, "_name_or_path", "") or config.get("model_type", "model")).name
        source = (config, model.state_dict())
        return client().upload_model(source, name, tokenizer=_tokenizer(model), progress=False)
    raise TypeError(
        f"a {type(model).__name__} cannot go to the daemon, which runs no code: give a model of "
        "load_tl_model or ablate.Client.load_model, a Hugging Face folder or model, or a HookedTransformer; "
        "for AutoCircuit's MicroModel ablate.micro.upload, for tracr's models ablate.tracr.upload"
    )


def _tokenizer(model: Any) -> str | None:
    """The text of tokenizer.json, if the model carries one of Hugging Face's fast tokenizers."""
    fast = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
    return None if fast is None else fast.to_str()
