"""Runs of codecs that train on every image: one runtime for all families.

`task.PerImageTask` is the contract that a family fulfils, `run.run` the runtime,
`store` what fitting leaves for files to be made of, `result` the files and the outcome.
"""
