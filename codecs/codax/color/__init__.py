"""Color spaces: the meaning of an image's samples, kept in a byte or two.

`spaces` has the spaces with a name, `icc` reads and checks ICC profiles, `recognition`
finds the named space that a profile describes, `profiles` makes profiles, `sections`
puts color spaces into `.cdx` files, `tags` takes them from image files, `output` writes
them there. `png` and `boxes` read and write what Pillow does not, `cmyk` converts.

Nothing here changes pixels but `cmyk`; nothing here imports JAX.
"""
