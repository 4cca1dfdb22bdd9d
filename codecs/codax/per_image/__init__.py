"""Runs of codecs that train on every image: one runtime for all families.

`task.PerImageTask` is the contract of a family, `run.run` the runtime, `store` keeps
fits, `result` files and the outcome.
"""
