"""Fuzzing of what the server reads from devices."""
