"""Benchmarks: `ponita bench`. Nothing is timed before it was found to be right."""
