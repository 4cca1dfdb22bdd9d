"""Entropy coding: integer tables, range coder, fixed-point networks, context models.

Training uses `context` (JAX, float). Files use `context_coder` (NumPy, integers) over
`fixed_point`, `wavefront`, `tables` and `range_coder`. Nothing is imported here:
decoding needs no JAX.
"""
