"""What a run of a codec that trains on every picture leaves."""

from typing import Any, NamedTuple

import numpy as np

from codax.codec import Encoded


class Finished(NamedTuple):
  """One picture encoded with one lambda.

  Attributes:
    label: names it: the picture's name, with the lambda if there are several.
    image: uint8 [H, W, 3].
    encoded: its file.
    facts: to be kept beside the file's measurements, JSON-able.
  """

  label: str
  image: np.ndarray
  encoded: Encoded
  facts: dict[str, Any]


class Outcome(NamedTuple):
  """How `run` ended.

  Attributes:
    stopped: None, or why it stopped early (see `loop.Result`).
    finished: every picture with every lambda; empty if it stopped.
    metrics: of the whole run.
    sources: where and for how long each group was trained: seconds, and what
      `codax.provenance.source` says.
  """

  stopped: str | None
  finished: list[Finished]
  metrics: dict[str, float]
  sources: list[dict[str, Any]] = []
