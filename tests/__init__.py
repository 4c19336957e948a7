"""The tests. Each process that runs some computes in one thread, and so do the programs that it starts.

The tests run in as many processes as there are cores, and idle threads of a pool spin. The variables are set here since
libraries read them when they are imported.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(_name, "1")
