# SPDX-License-Identifier: Apache-2.0
"""Messages of the protocol, generated from proto/ablate/v1 when the package is built."""
