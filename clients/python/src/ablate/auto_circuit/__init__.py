# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit 1.0.1 by changing the import: its modules, names, arguments and defaults, on a daemon.

    >>> from ablate.auto_circuit.experiment_utils import load_tl_model
    >>> from ablate.auto_circuit.data import load_datasets_from_json
    >>> from ablate.auto_circuit.utils.graph_utils import patchable_model

What needs a daemon and is not told which asks :func:`client`: that of :func:`use`, else the one at
``$ABLATE_HOST`` or ``localhost:50051``. Where it differs from AutoCircuit, and why: docs/autocircuit.md.
"""

from ._session import client, use

__all__ = ["client", "use"]
