"""Benchmarks. Each compares side by side in one run, and writes its JSON."""
