"""Metrics: distortion, rate, codebook use and computing cost, each in one place."""
