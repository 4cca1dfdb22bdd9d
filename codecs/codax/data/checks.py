"""Checks of images before the work: all that is wrong is said at once.

Headers are looked at first, whole images where the work decodes them at once anyway.
Bad images refuse the work, with a list of all of them; where `skip_bad` is set they are
passed over and handed to a callback, which names them in logs and results. An image
that turns out bad later, hours into a training, is treated by the same rule.
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from absl import logging
from tqdm import tqdm

from codax import bitstream
from codax.data.sources import Source
from codax.errors import CodaxError

CONFIG_ADVICE = '--config.data.skip_bad=True passes over bad images'
FLAG_ADVICE = '--skip-bad passes over bad images'
_MAX_SHOWN = 20  # reasons in one message
_MANY = 1000  # images whose look is announced in the log
_CHUNK = 32  # headers that a thread looks at in one go
_HEADER_THREADS = 16  # they wait for disks and networks


class BadImage(NamedTuple):
  """An image that cannot be used.

  Attributes:
    image: name of the image.
    reason: one line that names the file.
  """

  image: str
  reason: str


PassOver = Callable[[BadImage], Any]  # called with each image that is passed over


def warn(bad: BadImage) -> None:
  """Names an image that is passed over in the log."""
  logging.warning('passed over: %s', bad.reason)


# --- Saying what is wrong -------------------------------------------------------------


def list_reasons(reasons: Sequence[str]) -> list[str]:
  """Returns the first reasons, and 'and N more' for the rest."""
  more = len(reasons) - _MAX_SHOWN
  shown = list(reasons[:_MAX_SHOWN])
  return [*shown, f'and {more} more'] if more > 0 else shown


def refuse(reasons: Sequence[str], advice: str = '', what: str = 'images') -> None:
  """Raises one `CodaxError` for all bad inputs of a request, if there are any.

  Args:
    reasons: a line for each image, with its name.
    advice: end of the message.
    what: noun for the inputs, in the plural.
  """
  if not reasons:
    return
  text = '; '.join(list_reasons(reasons))
  if len(reasons) > 1:
    text = f'{len(reasons)} {what} cannot be used: {text}'
  raise CodaxError(f'{text} ({advice})' if advice else text)


def handle(bad: Sequence[BadImage], is_skipped: bool, pass_over: PassOver) -> None:
  """Passes over bad images of a configuration's data, or refuses all of them.

  Raises:
    CodaxError: there are some, and `is_skipped` is False.
  """
  if not is_skipped:
    refuse([one.reason for one in bad], CONFIG_ADVICE)
  for one in bad:
    pass_over(one)


# --- Looking --------------------------------------------------------------------------


def read_image(source: Source, i: int, is_encoded: bool = False) -> dict[str, Any]:
  """Reads image `i` of a source; every error names it.

  Args:
    source: images to read.
    i: index of the image.
    is_encoded: whether the whole image is to become a file, which has limits.

  Raises:
    CodaxError: the image cannot be read, or files cannot hold it.
  """
  try:
    item = source[i]
    if is_encoded:
      check_size(*item['image'].shape[:2])
    return item
  # data sets and their decoders raise nearly anything for a damaged image
  except Exception as e:
    name, text = source.names[i], f'{e}' or type(e).__name__
    is_named = isinstance(e, CodaxError) and name in text
    raise CodaxError(text if is_named else f'{name}: {text}') from e


def check_size(height: int, width: int) -> None:
  """Checks that files can hold an image.

  Raises:
    CodaxError: a side is too long, or there are too many pixels.
  """
  limits = bitstream.DEFAULT_LIMITS
  if max(height, width) > limits.max_side or height * width > limits.max_pixels:
    raise CodaxError(
      f'{width} x {height} pixels are too many: sides may have up to '
      f'{limits.max_side}, images {limits.max_pixels}'
    )


def find_bad(source: Source) -> dict[int, BadImage]:
  """Looks at the headers of all images, in several threads.

  Returns:
    Images that cannot be used, by index; none of sources without headers.
  """
  if source.check is None:
    return {}

  def look(i: int) -> BadImage | None:
    try:
      source.check(i)
    except CodaxError as e:
      return BadImage(source.names[i], str(e))
    return None

  if len(source) >= _MANY:
    logging.info('looking at %d images', len(source))
  found = map_in_threads(look, range(len(source)), _CHUNK, _HEADER_THREADS)
  return {i: bad for i, bad in enumerate(found) if bad is not None}


def map_in_threads(
  function: Callable[[Any], Any], items: Sequence[Any], chunk: int = 1, threads: int = 0
) -> Iterator[Any]:
  """Calls a function that reads images for each item, with a bar after a second.

  Args:
    function: called with an item, in one of several threads.
    items: arguments of the calls.
    chunk: number of items that a thread takes at once.
    threads: number of threads; 0 is up to four, one a core.

  Yields:
    The results, in order.
  """
  parts = [items[i : i + chunk] for i in range(0, len(items), chunk)]
  bar = tqdm(
    total=len(items), desc='looking at images', unit='image', delay=1.0, leave=False,
    disable=None,
  )  # fmt: skip
  pool = ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1), 'codax-look')
  # Readers silence warnings one by one, which is not safe in threads: what they restore
  # is this state, whatever their order.
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    try:
      for results in pool.map(lambda part: [function(x) for x in part], parts):
        bar.update(len(results))
        yield from results
    finally:
      pool.shutdown(wait=True, cancel_futures=True)
      bar.close()


# --- Passing over ---------------------------------------------------------------------


def select(source: Source, members: Sequence[int]) -> Source:
  """Returns a source of some images of another one, by their indices."""
  pick = lambda values: [values[i] for i in members]
  changes: dict[str, Any] = {'names': tuple(pick(source.names))}
  for name in ('load', 'check', 'read'):  # functions of an index
    function = getattr(source, name, None)
    if function is not None:
      changes[name] = lambda i, f=function: f(members[i])
  if source.sizes is not None:
    changes['sizes'] = lambda: pick(source.sizes())
  return dataclasses.replace(source, **changes)


def leave_out(source: Source, bad: Mapping[int, BadImage]) -> Source:
  """Returns a source without bad images, given by their indices.

  Raises:
    CodaxError: no image is left.
  """
  if not bad:
    return source
  if len(bad) == len(source):
    refuse([one.reason for one in bad.values()], 'no image is left')
  return select(source, [i for i in range(len(source)) if i not in bad])


def replace_bad(source: Source, pass_over: PassOver = warn) -> Source:
  """Returns a source that gives the next readable image in place of an unreadable one.

  The image of an index depends on the files alone, not on what was read before.

  Args:
    source: images of which some may turn out bad when they are read.
    pass_over: called once with each of those, possibly in another thread.
  """
  known: set[int] = set()

  def load(i: int) -> dict[str, Any]:
    for j in ((i + k) % len(source) for k in range(len(source))):
      if j in known:
        continue
      try:
        return read_image(source, j)
      except CodaxError as e:
        known.add(j)
        pass_over(BadImage(source.names[j], str(e)))
    raise CodaxError(f'none of the {len(source)} images can be read')

  return dataclasses.replace(source, load=load)


def iterate(
  source: Source, is_skipped: bool, pass_over: PassOver = warn
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Reads the images of a source that are to be encoded, one by one.

  Args:
    source: images to read.
    is_skipped: whether bad ones are passed over.
    pass_over: called with each of those.

  Yields:
    Name and content of each image.

  Raises:
    CodaxError: an image cannot be read and is not to be passed over.
  """
  for i in range(len(source)):
    try:
      item = read_image(source, i, is_encoded=True)
    except CodaxError as e:
      handle([BadImage(source.names[i], str(e))], is_skipped, pass_over)
      continue
    yield source.names[i], item


def advise(source: Source, advice: str = CONFIG_ADVICE) -> Source:
  """Returns a source whose errors say how bad images are passed over."""

  def load(i: int) -> dict[str, Any]:
    try:
      return read_image(source, i)
    except CodaxError as e:
      raise CodaxError(f'{e} ({advice}; the same command goes on)') from e

  return dataclasses.replace(source, load=load)
