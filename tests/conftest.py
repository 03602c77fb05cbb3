"""Tests run in as many processes as there are cores; more threads in each would only wait for one another."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, here and in what the tests start
