"""Damage of kept files for tests: each way in which a file may be no longer whole."""


def _flip(data):
  """Changes a digit in the second half, so that text stays text; else a bit."""
  out = bytearray(data)
  digits = [i for i in range(len(out) // 2, len(out)) if out[i : i + 1].isdigit()]
  i = digits[0] if digits else len(out) // 2
  out[i] ^= 1
  return bytes(out)


# name -> function from the bytes of a file to others; None puts a folder in its place
DAMAGES = {
  'empty': lambda data: b'',
  'cut': lambda data: data[: 2 * len(data) // 3],
  'other bytes': lambda data: b'\x00\xff\n{"' + data[::-1],
  'digit': _flip,
  'folder': None,
}


def damage(path, how):
  """Damages a file; returns its bytes."""
  good = path.read_bytes()
  if DAMAGES[how] is None:
    path.unlink()
    path.mkdir()
  else:
    path.write_bytes(DAMAGES[how](good))
  return good


def choose_files(folder, *names):
  """Chooses the files of these names in a folder, and the largest other."""
  paths = [p for p in folder.rglob('*') if p.is_file()]
  named = [p for p in paths if p.name in names]
  others = [p for p in paths if p.name not in names]
  return [*named, max(others, key=lambda p: p.stat().st_size)]


def is_one_line(error):
  """Tells whether an error is fit for a user: one line."""
  return '\n' not in str(error).strip()
