# SPDX-License-Identifier: Apache-2.0
"""Ablate: edge-level ablation of transformer models that a daemon keeps resident.

    >>> import ablate
    >>> model = ablate.connect("localhost:50051").model("smollm2-135m")
    >>> logits, cache = model.run_with_cache("Then, Alice and Bob had", ["blocks.3.hook_resid_post"])
    >>> graph = model.graph()
    >>> scores = graph.prune_scores("ioi.json", "eap")
    >>> graph.evaluate(scores, [0, 100, 1000, graph.edge_count])

Arrays are torch tensors where torch is importable, else numpy; the batch dimension is never squeezed.
A mask of 1 means ablated. Errors are :class:`ablate.AblateError`, one subclass for each code.
"""

from . import aio, hooked, micro, tracr, transformer_lens
from ._ablation import AblationType, EdgeCounts, PatchType, ResidentAblation
from ._acdc import ACDC, AcdcDecision, AcdcTau
from ._algorithms import EAPIG, ActivationMagnitude, EdgeAttributionPatching, GroundTruth, MaskGradient, RandomScores
from ._cache import ActivationCache
from ._caches import KvCache
from ._client import Client, connect
from ._config import HookPoint, ModelConfig
from ._dataset import Dataset
from ._graph import Graph
from ._hooks import Activations, Hook
from ._interop import EapGraph, load_scores, save_scores
from ._jobs import EdgeScore, Job, JobEvent, PruneScores, PruneStream
from ._knockouts import Knockouts
from ._local import LocalClient, local
from ._measure import MIB_FRACTIONS, Areas, Comparison, Completeness, Evaluation, Overlap, Roc
from ._model import Model
from ._names import get_act_name
from ._parameters import Component, Parameters
from ._patchable import PatchableModel, patchable_model
from ._topology import Edge, Node, Wrapper
from ._training import CircuitProbing, SubnetworkProbing, TrainingPoint
from ._version import VERSION as __version__
from .errors import *  # noqa: F403
from .errors import __all__ as _errors

__all__ = [
    "AblationType",
    "Areas",
    "Comparison",
    "Completeness",
    "EapGraph",
    "Evaluation",
    "MIB_FRACTIONS",
    "Overlap",
    "Roc",
    "load_scores",
    "save_scores",
    "ACDC",
    "AcdcDecision",
    "AcdcTau",
    "ActivationCache",
    "ActivationMagnitude",
    "Activations",
    "CircuitProbing",
    "Client",
    "Dataset",
    "EAPIG",
    "Edge",
    "EdgeCounts",
    "EdgeAttributionPatching",
    "EdgeScore",
    "Graph",
    "GroundTruth",
    "Hook",
    "HookPoint",
    "Job",
    "JobEvent",
    "Knockouts",
    "KvCache",
    "LocalClient",
    "MaskGradient",
    "Model",
    "ModelConfig",
    "Node",
    "PatchType",
    "PatchableModel",
    "PruneScores",
    "PruneStream",
    "RandomScores",
    "ResidentAblation",
    "SubnetworkProbing",
    "TrainingPoint",
    "Component",
    "Parameters",
    "Wrapper",
    "__version__",
    "connect",
    "get_act_name",
    "aio",
    "hooked",
    "local",
    "transformer_lens",
    "micro",
    "patchable_model",
    "tracr",
    *_errors,
]
