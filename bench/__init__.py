"""Benchmarks: ratios measured side by side in one run. They decide nothing; tests count, benchmarks time."""
