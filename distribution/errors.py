# SPDX-License-Identifier: Apache-2.0
"""What the build says when it cannot go on: one line that names the file and the mend."""

from collections.abc import Iterator
from contextlib import contextmanager


class BuildError(Exception):
    """A build that cannot go on. The message is one line: what is wrong with which file; mend."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@contextmanager
def one_line() -> Iterator[None]:
    """Turn a BuildError, or a full or forbidden disk, into one line on stderr and exit status 1."""
    try:
        yield
    except (BuildError, OSError) as error:
        raise SystemExit(f"vllm-helion: error: {error}") from None
