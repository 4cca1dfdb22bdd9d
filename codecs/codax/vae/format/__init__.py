"""What files of family 4 fix for ever: integer tables, scales, streams (NumPy only)."""
