"""Draws from a discrete distribution in constant time (Walker 1977)."""

import numpy as np


def make_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Makes Walker's alias table: i stays i with probability keep[i], else other[i].

  Drawing from it costs two random numbers whatever the number of images is.

  Args:
    weights: [n], positive.

  Returns:
    keep float32 [n], other int32 [n].
  """
  n = len(weights)
  scaled = np.asarray(weights, np.float64) * (n / np.sum(weights, dtype=np.float64))
  keep, other = np.ones(n), np.arange(n)
  small = [i for i in range(n) if scaled[i] < 1]
  large = [i for i in range(n) if scaled[i] >= 1]
  while small and large:
    s, l = small.pop(), large.pop()
    keep[s], other[s] = scaled[s], l
    scaled[l] -= 1 - scaled[s]
    (small if scaled[l] < 1 else large).append(l)
  return keep.astype(np.float32), other.astype(np.int32)
