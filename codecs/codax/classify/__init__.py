"""Classifiers with KAN heads, and their rivals: networks that judge, not codecs."""
