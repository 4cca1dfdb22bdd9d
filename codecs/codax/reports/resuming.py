"""Finished rows of a comparison that was interrupted, for the same request again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codax.errors import CodaxError
from codax.reports import measure, store
from codax.reports.measure import Row

DIGEST = 'image_sha256'  # extra of a row: hash of the image's shape and pixels


def load_rows(path: Path, request: Mapping[str, Any]) -> list[Row]:
  """Reads the rows of incomplete results of the same request.

  Args:
    path: JSON file of the results.
    request: all that rows depend on, but for image and operating point, JSON-able.

  Returns:
    The rows; none if there are no such results, or if they are complete or damaged.
  """
  try:
    content = store.load(path, 'comparison')
    if content.get('is_complete') is not False or content.get('request') != request:
      return []
    return [measure.from_json(row) for row in content['rows']]
  except (CodaxError, OSError, KeyError, TypeError, ValueError):
    return []


def index_rows(rows: list[Row]) -> dict[tuple[str, ...], Row]:
  """Indexes rows by codec, point, and hash and name of the image."""
  return {
    (row.codec, row.point, row.extras[DIGEST], row.image): row
    for row in rows
    if DIGEST in row.extras
  }
