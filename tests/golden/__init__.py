"""Answers of the official code on seeded random weights, and real cases: README.md says where each number is from."""
