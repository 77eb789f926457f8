# SPDX-License-Identifier: Apache-2.0
"""The client's version; it goes with every call as metadata."""

VERSION = "0.1.0"
PROTOCOL = "ablate.v1"
