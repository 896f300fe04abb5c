"""Benchmark of the methods on streams with known optimum: `python -m allocator.bench --help`."""
