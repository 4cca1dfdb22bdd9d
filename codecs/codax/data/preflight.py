"""A look at a configuration's images before the first of several runs."""

from collections.abc import Mapping
from typing import Any

from codax.data import checks, images, sources
from codax.data.defaults import DEFAULTS, SOURCE_DEFAULTS


def find_bad(data: Mapping[str, Any]) -> list[checks.BadImage]:
  """Looks at the headers of all images that ``config.data`` names.

  Args:
    data: the section of a configuration, of any family.

  Returns:
    Images that a run would refuse; none if it passes over them.

  Raises:
    CodaxError: the data set is missing, or cannot be used.
  """
  if 'split' in data:  # families that train on each image
    opened = images.open_sources(data)
  else:
    data = {**DEFAULTS, **SOURCE_DEFAULTS, **dict(data.items())}
    options = {key: data[key] for key in sources.options(data['name'])}
    splits = sources.SPLITS
    opened = [sources.get(data['name'], split, **options) for split in splits]
  if data.get('skip_bad'):
    return []
  return [bad for source in opened for bad in checks.find_bad(source).values()]
