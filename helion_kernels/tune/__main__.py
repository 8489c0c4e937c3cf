# SPDX-License-Identifier: Apache-2.0
"""python -m helion_kernels.tune --model 8b --out DIR"""

import sys

from helion_kernels.tune.cli import main

if __name__ == "__main__":
    sys.exit(main())
