# SPDX-License-Identifier: Apache-2.0
"""A short run of fuzz_rpcs.py: requests that are almost right end nothing but themselves."""

import os

import ablate
import fuzz_rpcs
from bad_input import CASES
from daemon import Daemon

SLOW = 4 if os.environ.get("ABLATE_SANITIZED") else 1
COUNT = 600 // SLOW


def test_requests_that_are_almost_right_are_answered():
    wrong = []
    with Daemon(*fuzz_rpcs.FLAGS) as daemon:
        with ablate.connect(daemon.grpc, arrays="numpy") as client:
            corpus = fuzz_rpcs.record(client, CASES[::SLOW])
        assert len(corpus) > 25, sorted(corpus)
        seen = fuzz_rpcs.fuzz(daemon, corpus, 1, COUNT, lambda: daemon.alive(), wrong.append)
        assert daemon.alive(), daemon.log()[-8000:]
    assert not wrong
    assert seen["OK"] > COUNT // 10, seen  # most of what is asked for is refused, but not all
