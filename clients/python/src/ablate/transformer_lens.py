# SPDX-License-Identifier: Apache-2.0
"""TransformerLens 4 on the daemon: a driver for its ``RemoteBridge``.

    >>> bridge = ablate.transformer_lens.boot(ablate.connect().load_model("gpt2"), "gpt2")
    >>> logits, cache = bridge.run_with_cache("When Mary and John", names_filter=["blocks.3.hook_out"])
    >>> bridge.forward("When Mary", intervene={"blocks.3.attn.hook_z": {"op": "suppress", "pos": -1}})

The driver has the shapes of TransformerLens's ``Driver`` protocol and needs nothing of the package;
:func:`boot` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping

import numpy as np

from ._arrays import Array, Tokens, to_numpy
from ._hooks import HookSpec
from ._model import Model

__all__ = ["AblateDriver", "ForwardResult", "boot"]


@dataclass(frozen=True)
class ForwardResult:
    """What a pass gave, as TransformerLens's class of this name has it."""

    logits: Array | None = None
    """float32 ``[batch, pos, d_vocab_out]``, or None where they were not asked for."""
    captured: Mapping[str, Array] = field(default_factory=dict)
    """Activations by the names that were asked for, each with its batch dimension."""
    new_tokens: None = None
    raw_output: None = None


class AblateDriver:
    """TransformerLens 4's ``Driver`` over a resident model: captures and interventions by name, on the
    daemon. ``bridge_config``: the bridge's ``TransformerBridgeConfig``; ``tokenizer``: a Hugging Face one.

    Interventions are TransformerLens's specs (``suppress``, ``scale``, ``add``, ``set``, with ``pos``) and
    what else :mod:`ablate._hooks` lists (``patch``, ``project_out``, ``heads``, ...).
    """

    provides_sequence_logits = True
    _supported_features: frozenset[str] = frozenset()

    def __init__(self, model: Model, bridge_config: Any, tokenizer: Any = None):
        self.model = model
        self.bridge_config = bridge_config
        self.tokenizer = tokenizer
        self.architecture: str = getattr(bridge_config, "architecture", None) or model.cfg.family
        # The bridge's own name of each place; it finds the older ones through its aliases.
        self._names = {point.bridge_name or point.name: point.name for point in model.hook_points()}
        # A norm's output: the bridge's is without the norm's weights, TransformerLens 2's and ours with.
        other = frozenset(name for name in self._names if name.endswith(".hook_normalized"))
        self.supported_hook_points = frozenset(self._names) - other
        self.non_fireable_hook_points = other

    def forward(
        self,
        input_ids: Tokens | None = None,
        *,
        capture: tuple[str, ...] = (),
        intervene: Mapping[str, HookSpec] | None = None,
        max_new_tokens: int = 1,
        return_logits: bool = True,
        attention_mask: Any = None,
        output_attentions: bool = True,
        **unknown: Any,
    ) -> ForwardResult:
        """One pass of ``input_ids`` ``[pos]`` or ``[batch, pos]``. ``output_attentions``, which the bridge
        sets, changes nothing: patterns are captured by name.

        Raises ValueError without ids and for interventions that are not specs of the vocabulary,
        NotImplementedError for callables, padding, generation and options that a remote pass has not,
        and as :meth:`Model.run_with_cache` does.
        """
        if input_ids is None:
            raise ValueError("AblateDriver needs input_ids")
        if max_new_tokens != 1:
            raise NotImplementedError("AblateDriver runs one pass: max_new_tokens must be 1")
        if attention_mask is not None and not np.all(to_numpy(attention_mask)):
            raise NotImplementedError("AblateDriver pads nothing: give prompts of one length, without attention_mask")
        if unknown:
            raise NotImplementedError(f"AblateDriver does not know {', '.join(sorted(unknown))}")
        for name, spec in (intervene or {}).items():
            if callable(spec):
                raise NotImplementedError(
                    f"intervention at {name!r}: a daemon runs no Python; give a spec, such as {{'op': 'suppress'}}"
                )
        logits, cache = self.model.run_with_cache(
            input_ids,
            list(dict.fromkeys(capture)),
            fwd_hooks=intervene,
            slice_output=None if return_logits else "last_seq",
        )
        captured = {name: cache[self._names.get(name, name)] for name in capture}
        return ForwardResult(logits=logits if return_logits else None, captured=captured)

    def close(self) -> None:
        """Nothing to end: the model stays resident for others; :meth:`Model.unload` ends it."""

    def supports(self, feature: str) -> bool:
        """None of TransformerLens's features that need a local module."""
        return feature in self._supported_features


def boot(model: Model, source: Any, tokenizer: Any = None) -> Any:
    """A ``RemoteBridge`` of TransformerLens 4 whose passes run on the daemon.

    ``source``: the Hugging Face folder or id that the model came from, of which the configuration and,
    unless ``tokenizer`` is given, the tokenizer are read here; no weights. Load the model with
    ``mode="hf"`` for the bridge's raw numbers.

    Raises ImportError without ``transformer-lens>=4``.
    """
    try:
        from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
        from transformer_lens.model_bridge.remote_bridge import RemoteBridge
        from transformer_lens.model_bridge.sources._bridge_builder import (
            build_bridge_config_from_hf,
            configure_tokenizer,
        )
        from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config
    except ImportError as error:
        raise ImportError(
            "ablate.transformer_lens.boot needs the package: pip install 'transformer-lens>=4'"
        ) from error
    import torch
    from transformers import AutoConfig, AutoTokenizer

    hf_config = AutoConfig.from_pretrained(source)
    architecture = determine_architecture_from_hf_config(hf_config)
    config = build_bridge_config_from_hf(hf_config, architecture, str(source), torch.float32)
    adapter = ArchitectureAdapterFactory.select_architecture_adapter(config)
    tokenizer = configure_tokenizer(tokenizer or AutoTokenizer.from_pretrained(source), adapter.cfg)
    driver = AblateDriver(model, adapter.cfg, tokenizer)
    return RemoteBridge(adapter=adapter, tokenizer=tokenizer, driver=driver)
