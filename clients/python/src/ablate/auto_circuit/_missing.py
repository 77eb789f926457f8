# SPDX-License-Identifier: Apache-2.0
"""What AutoCircuit has and this package cannot have, with the reason and what to use instead. A script
that imports such a name runs until it calls it; docs/autocircuit.md lists them.
"""

from __future__ import annotations

from typing import Any, Callable, NoReturn

_MODULES = (
    "modules are on the daemon, which runs no code of its callers; model.wrappers says their shapes, "
    "model.patch_masks and model.set_patch_masks are masks, model.run_with_cache and model.add_hook look inside"
)
_AUTOENCODERS = (
    "the daemon knows no sparse autoencoders, whose forward pass is code; a model whose blocks are standard can be "
    "uploaded (ablate.Client.upload_model)"
)
_PROJECTORS = (
    "projectors are modules between blocks, and the daemon runs no code of its callers; the project_out operation "
    "of model.add_hook removes a direction"
)
_PICKLE = (
    "pickled files can run code; graph.save_scores and graph.load_scores keep scores as safetensors, json keeps "
    "measurements"
)
_INNER = "a helper inside AutoCircuit's own loop, which runs on the daemon here"
_MICRO = "the daemon runs no code of its callers; ablate.micro.upload(client, weights, inputs) makes this model there"
_TRACR = (
    "compiling is tracr's: compile the program with tracr and give what comes out to "
    "ablate.tracr.upload(client, assembled)"
)

NAMES: dict[str, dict[str, str]] = {
    "metrics.prune_metrics.answer_diff": {"identity": _INNER},
    "metrics.prune_metrics.answer_diff_percent": {"identity": _INNER},
    "metrics.prune_metrics.answer_value": {"identity": _INNER},
    "metrics.prune_metrics.measure_prune_metrics": {"default_factory": _INNER, "double_default_factory": _INNER},
    "model_utils.micro_model_utils": dict.fromkeys(
        ("Block", "MicroModel", "factorized_dest_nodes", "factorized_src_nodes", "simple_graph_nodes"), _MICRO
    ),
    "model_utils.sparse_autoencoders.autoencoder_training": dict.fromkeys(
        ("get_model_and_data", "train_model"), _AUTOENCODERS
    ),
    "model_utils.sparse_autoencoders.autoencoder_transformer": dict.fromkeys(
        ("AutoencoderTransformer", "factorized_dest_nodes", "factorized_src_nodes", "sae_model"), _AUTOENCODERS
    ),
    "model_utils.sparse_autoencoders.sparse_autoencoder": dict.fromkeys(
        ("CHUNK_SIZE", "STATE_DICT_MAPS", "SparseAutoencoder", "load_autoencoder"), _AUTOENCODERS
    ),
    "model_utils.task_projectors.projector_transformer": dict.fromkeys(
        ("ProjectorTransformer", "get_projector_model"), _PROJECTORS
    ),
    "model_utils.task_projectors.task_projector": dict.fromkeys(
        ("RotationMatrix", "Symmetric", "TaskProjector"), _PROJECTORS
    ),
    "model_utils.task_projectors.task_projector_training": {"train_model": _PROJECTORS},
    "model_utils.tracr_model_utils": dict.fromkeys(("get_tracr_model",), _TRACR),
    "visualize": {"t_fmt": "it formats activations as labels; draw_seq_graph shows masks and scores"},
    "utils.ablation_activations": dict.fromkeys(
        ("mean_src_out_hook", "src_out_hook"), "hooks are code; src_ablations and batch_src_ablations do their work"
    ),
    "utils.graph_utils": {"make_model_patchable": f"patchable_model does it; {_MODULES}"},
    "utils.misc": {
        "load_cache": _PICKLE,
        "module_by_name": _MODULES,
        "save_cache": _PICKLE,
        "set_module_by_name": _MODULES,
    },
    "utils.patch_wrapper": {"PatchWrapperImpl": _MODULES},
}


def missing_from(module: str) -> Callable[[str], Any]:
    """A module's ``__getattr__``: for a name of :data:`NAMES` a function that raises NotImplementedError,
    with the reason, when it is called; AttributeError for any other."""
    here = NAMES[module.partition(".auto_circuit.")[2]]

    def get(name: str) -> Any:
        if name not in here:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")

        def missing(*_: Any, **__: Any) -> NoReturn:
            raise NotImplementedError(f"AutoCircuit's {name} is not here: {here[name]}")

        missing.__name__ = missing.__qualname__ = name
        missing.__module__ = module
        missing.__doc__ = f"Not here: {here[name]}."
        return missing

    return get
