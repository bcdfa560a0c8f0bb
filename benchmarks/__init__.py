"""Benchmarks: each prints a ratio of two things run side by side, and absolute figures. Never part of the tests."""
