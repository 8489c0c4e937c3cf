# SPDX-License-Identifier: Apache-2.0
"""One file per op, named as the op: its kernel, reference, shapes and tuning axes (an `op.Op`)."""
