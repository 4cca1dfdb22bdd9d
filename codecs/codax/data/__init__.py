"""Data: image sources with random access, and the pipeline that makes batches."""
