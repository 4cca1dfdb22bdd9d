"""Facts about files of the fake family."""

from codax import bitstream


def describe(data):
  header, _ = bitstream.read(data)
  return {'step': header.profile, 'bytes': 'never replaces what the container says'}
