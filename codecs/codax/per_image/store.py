"""What training leaves for files to be made of: named arrays, with facts beside them.

So what was trained on one machine can be written on another.
"""

import contextlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from codax import files
from codax.errors import CodaxError


def save(
  file: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]
) -> None:
  """Writes a file of safetensors.

  Args:
    file: where.
    arrays: what.
    facts: JSON-able.
  """
  about = {key: json.dumps(value) for key, value in facts.items()}
  files.write_bytes(file, safetensors.numpy.save(dict(arrays), metadata=about))


@contextlib.contextmanager
def opened(file: Path) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
  """(arrays, facts) of a file of `save`.

  Raises:
    CodaxError: it is not one, or what is done with it in the context finds something
      missing or amiss.
  """
  try:
    with safetensors.safe_open(file, 'np') as held:
      facts = {key: json.loads(value) for key, value in held.metadata().items()}
      arrays = {key: held.get_tensor(key) for key in held.keys()}
    yield arrays, facts
  except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError,
          zlib.error, safetensors.SafetensorError) as e:  # fmt: skip
    raise CodaxError(f'{file} does not hold what training left: {e}; delete it') from e
