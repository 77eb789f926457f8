# SPDX-License-Identifier: Apache-2.0
"""A short run of fuzz_rpcs.py: requests that are almost right end nothing but themselves."""

import os

import ablate
import fuzz_rpcs
from daemon import Daemon

COUNT = 150 if os.environ.get("ABLATE_SANITIZED") else 300


def test_requests_that_are_almost_right_are_answered():
    wrong = []
    with Daemon(*fuzz_rpcs.FLAGS) as daemon:
        with ablate.connect(daemon.grpc, arrays="numpy") as client:
            corpus = fuzz_rpcs.record(client)
        assert len(corpus) > 40, sorted(corpus)
        seen = fuzz_rpcs.fuzz(daemon, corpus, 1, COUNT, lambda: daemon.alive(), wrong.append)
        assert daemon.alive(), daemon.log()[-8000:]
    assert not wrong
    assert seen["OK"] > COUNT // 10, seen  # most of what is asked for is refused, but not all
