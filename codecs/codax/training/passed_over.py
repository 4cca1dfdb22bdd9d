"""Register of the images that a training passes over, in several processes.

Images that turn out bad when it is their turn, hours into a training, are kept in
``passed_over.json`` of the work directory: the process that ends the run names those of
the earlier ones too.
"""

import json
import threading
from pathlib import Path

from codax import files
from codax.data import checks
from codax.data.checks import BadImage

FILE_NAME = 'passed_over.json'


class Register:
  """Images passed over so far; `add` may be called from several threads.

  Attributes:
    images: list of `BadImage`, each image once, in the order of their finding.
  """

  def __init__(self, workdir: str | Path, is_resumed: bool, is_kept: bool = True):
    """Begins empty, or with the images of earlier processes of the run.

    Args:
      workdir: work directory of the run.
      is_resumed: whether the run goes on.
      is_kept: whether the file is written; one process of several does.
    """
    self._path = Path(workdir) / FILE_NAME
    self._is_kept, self._lock = is_kept, threading.Lock()
    self.images = _load(self._path) if is_resumed else []

  def add(self, bad: BadImage) -> None:
    """Adds an image, unless it is there, and names it in the log."""
    with self._lock:
      if bad.image in [one.image for one in self.images]:
        return
      checks.warn(bad)
      self.images.append(bad)
      if self._is_kept:
        content = [one._asdict() for one in self.images]
        files.write_text(self._path, files.json_text(content))


def _load(path: Path) -> list[BadImage]:
  """Reads the images of a file; a missing or damaged one holds none."""
  try:
    content = json.loads(path.read_bytes())
    return [BadImage(str(x['image']), str(x['reason'])) for x in content]
  except (OSError, ValueError, KeyError, TypeError):
    return []
