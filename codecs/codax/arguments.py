"""Checks of what library calls are given, where a wrong type is the usual mistake."""

import os

from codax.errors import CodaxError


def as_bytes(data: bytes | bytearray | memoryview, what: str = 'a .cdx file') -> bytes:
  """Returns the bytes of a file.

  Args:
    data: the bytes, in any of Python's types for them.
    what: name of the file in messages.

  Raises:
    CodaxError: another type, such as the path of a file.
  """
  if isinstance(data, bytes):
    return data
  if isinstance(data, bytearray | memoryview):
    return bytes(data)
  hint = ': pass pathlib.Path(...).read_bytes()'
  hint = hint if isinstance(data, str | os.PathLike) else ''
  raise CodaxError(f'the bytes of {what} are wanted, not {type(data).__name__}{hint}')
