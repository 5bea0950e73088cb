"""Speed and memory, each against a named rival, as ratios measured in one run: ``python -m benchmarks [NAME ...]``."""
