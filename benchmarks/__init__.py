"""Measurements: `python -m benchmarks` (everything), `python -m benchmarks reading --quick` (one of them, small)."""
