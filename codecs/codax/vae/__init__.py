"""Family 4: variational autoencoders, with Bezier activations or others, as codecs."""
