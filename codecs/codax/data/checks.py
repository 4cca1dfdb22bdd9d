"""Checks of a data set's images before the work: all that is wrong is said at once."""

from collections.abc import Sequence

from codax.data.sources import Source
from codax.errors import CodaxError

_SHOWN = 20  # errors in one line, at most


def check_images(source: Source) -> None:
  """Looks at the headers of all images.

  Raises:
    CodaxError: some cannot be used; all of them are named.
  """
  errors = []
  for i in range(len(source) if source.check is not None else 0):
    try:
      source.check(i)
    except CodaxError as e:
      errors.append(str(e))
  refuse(errors)


def refuse(errors: Sequence[str]) -> None:
  """Raises one `CodaxError` for all errors of a data set's images, if there are any."""
  if len(errors) > 1:
    more = len(errors) - _SHOWN
    rest = f'; and {more} more' if more > 0 else ''
    text = '; '.join(errors[:_SHOWN])
    raise CodaxError(f'{len(errors)} images cannot be used: {text}{rest}')
  if errors:
    raise CodaxError(errors[0])
