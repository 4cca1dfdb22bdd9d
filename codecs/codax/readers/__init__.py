"""Readers of image files, over Pillow: opening, true bit depths, samples as 8 bits.

Pillow reduces some files without a word, gets a few wrong and says little where it
fails. What these modules give is right, changed with a note, or refused by a line that
says what to do; `codax.image_io` puts it together.
"""
