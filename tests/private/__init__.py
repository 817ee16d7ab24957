"""Tests of the private model and of R_h."""
