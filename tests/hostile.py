"""Hostile files: mutations of sound ones, and what a decoder may do with them.

Used by the tests (seeded) and by fuzz/fuzz_decode.py (guided by coverage). Most
mutations repair the checksum, so that the damage reaches the decoders behind it.
"""

import math
import random
import resource
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from codax import bitstream, families
from codax import bundle as bundles
from codax.bitstream import BitstreamError

GOLDEN = Path(__file__).parent / 'golden'
SECONDS = 2.0
TRIES = 4
BYTES = 2**30

_SIDES = (0, 1, 2, 3, 4, 5, 8, 255, 256, 1024, 4097, 16383, 16384, 65535, 65536, 2**40)


def corpus(folder=GOLDEN / 'vqvae_1'):
  """(bundle or None, golden files) of a set."""
  files = [path.read_bytes() for path in sorted(folder.glob('*.cdx'))]
  assert files
  trained = (folder / bundles.FILE_NAME).exists()
  return (bundles.load(folder) if trained else None), files


def peak_bytes() -> int:
  """The largest memory that this process has held so far."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else 1024 * peak


def _timed(decode, data: bytes):
  """(seconds, the image or None for an error)."""
  wall, cpu = time.monotonic(), time.process_time()
  try:
    with np.errstate(all='raise'):
      image = decode(data)
  except BitstreamError as e:
    assert len(str(e)) < 500 and '\n' not in str(e)
    image = None
  # The lesser: a busy machine stretches the one, threads add up in the other.
  return min(time.monotonic() - wall, time.process_time() - cpu), image


class Judge:
  """Decodes files and asserts that each is a `BitstreamError` or an image, in bounds.

  Args:
    *models: bundles, and names of families that need none. A file goes to the decoder
      of the bundle that it names, or else to one of its family, or to the first one.

  Attributes:
    pictures, errors: how many there were.
    slowest: seconds that the slowest took.
  """

  def __init__(self, *models):
    self._codecs, self._bundles = {}, []
    for model in models:
      name = model if isinstance(model, str) else model.family
      made = families.get(name, model=None if name == model else model)
      self._codecs[families.family(name).id] = made
      if name != model:
        self._bundles.append((model.id[: bitstream.BUNDLE_ID_BYTES], made))
    self._first = next(iter(self._codecs.values()))
    self._start = peak_bytes()
    self.pictures = self.errors = 0
    self.slowest = 0.0

  @property
  def grown(self) -> int:
    """By how many bytes the process's peak memory has grown."""
    return peak_bytes() - self._start

  def restart(self) -> None:
    """From here on `grown` counts anew."""
    self._start = peak_bytes()

  def _choose(self, data: bytes):
    """The codec that decodes a file."""
    for name, made in self._bundles:
      if name in data[:24]:
        return made
    return self._codecs.get(data[5] if len(data) > 5 else 0, self._first)

  def __call__(self, data: bytes) -> bool:
    """Whether the file is an image; anything but that or an error is a failure."""
    decode = self._choose(data).decode
    took = math.inf
    # The work is the same each time. Another process on the core's other thread can
    # stretch both clocks by half, so what is too slow has to be so again and again.
    for attempt in range(TRIES):
      time.sleep(attempt)
      seconds, image = _timed(decode, data)
      took = min(took, seconds)
      if took <= SECONDS:
        break
    self.slowest = max(self.slowest, took)
    assert took <= SECONDS, f'{took:.1f} s for {data.hex()}'
    assert self.grown <= BYTES, f'{self.grown} bytes for {data.hex()}'
    if image is None:
      self.errors += 1
      return False
    self.pictures += 1
    header, sections = bitstream.read(data, known=None)
    has_alpha = bitstream.find(sections, bitstream.ALPHA) is not None
    channels = header.channels + has_alpha
    assert image.shape == (header.height, header.width, channels)
    assert image.dtype == np.uint8
    assert bitstream.write(header, sections) == data  # one form only
    facts = _describe(data)
    assert facts is None or (facts['height'], facts['width']) == image.shape[:2]
    return True


def _describe(data):
  try:
    return families.describe(data)
  except BitstreamError:  # orientation or colors: decoding does not look at them
    return None


def with_checksum(body: bytes) -> bytes:
  return body + zlib.crc32(body).to_bytes(4, 'big')


def assemble(version, header, sections) -> bytes:
  """A file of any fields, sound or not, with the right checksum."""
  flags = header.flags | (header.bundle_id is not None)
  parts = [
    bitstream.MAGIC,
    bytes([version, header.family, header.profile]),
    bitstream.put_varint(header.height),
    bitstream.put_varint(header.width),
    bytes([header.channels, flags]),
    header.bundle_id or b'',
  ]
  for kind, payload in sections:
    parts += [bytes([kind]), bitstream.put_varint(len(payload)), payload]
  return with_checksum(b''.join(parts))


def damage(data: bytes, rng: random.Random) -> bytes:
  """Some bytes changed, inserted, removed, repeated or cut off."""
  data = bytearray(data)
  at = rng.randrange(len(data) + 1)
  n = rng.choice((1, 1, 1, 2, 4, 8, 64))
  what = rng.randrange(7)
  if what == 0:
    return bytes(data[:at])
  if what == 1:
    return bytes(data[:at] + rng.randbytes(n) + data[at:])
  if what == 2:
    return bytes(data[:at] + data[at + n :])
  if what == 3:
    return bytes(data + rng.choice((b'\0', b'\xff', rng.randbytes(1))) * n)
  if what == 4:
    return bytes(data[: at + n] + data[at:])
  for i in range(at, min(at + n, len(data))):
    data[i] = rng.choice((data[i] ^ 1 << rng.randrange(8), 0, 255, rng.randrange(256)))
  return bytes(data)


def _header(header, rng: random.Random):
  """A header with one field changed, perhaps out of range."""
  side = rng.choice((rng.choice(_SIDES), rng.randrange(1, 200), rng.randrange(2**16)))
  near = lambda n: max(0, n + rng.randrange(-5, 6))
  changes = (
    {'height': side},
    {'width': side},
    {'height': near(header.height)},
    {'width': near(header.width)},
    {'height': header.width, 'width': header.height},
    {'height': header.height * 2, 'width': header.width // 2},
    {'height': 65535, 'width': rng.choice((1, 4, 1024, 4096))},
    {'height': rng.choice((1, 4, 1024, 4096)), 'width': 65535},
    {'profile': rng.choice((0, 1, 1 - min(header.profile, 1), rng.randrange(256)))},
    {'channels': rng.choice((1, 3, 4, rng.randrange(256)))},
    {'family': rng.randrange(256)},
    {'flags': rng.randrange(128) * 2},
    {'bundle_id': rng.choice((None, rng.randbytes(8), bytes(8)))},
  )
  return header._replace(**rng.choice(changes))


def _payload(payload: bytes, rng: random.Random, change) -> bytes:
  n = rng.choice((0, 1, 2, 8, 100, 1000))
  what = rng.randrange(6)
  if what == 0:
    return rng.choice((bytes(n), b'\xff' * n, rng.randbytes(n)))
  if what == 1:
    return payload + rng.choice((bytes(n), rng.randbytes(n)))
  return change(payload, rng)


def mutate(data: bytes, rng: random.Random, change=damage) -> bytes:
  """A mutation of a file.

  Args:
    data: the file, sound or not.
    rng: decides everything.
    change: ``(bytes, rng) -> bytes`` that changes a string of bytes.
  """
  try:
    header, sections = bitstream.read(data, known=None)
  except BitstreamError:
    body = change(data[:-4], rng)
    return with_checksum(body) if rng.random() < 0.9 else body + data[-4:]
  sections, version = list(sections), bitstream.VERSION
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    what = rng.randrange(20)
    if what == 0:
      return change(data, rng)  # under its old checksum
    if what < 4:
      return with_checksum(change(data[:-4], rng))
    if what < 10:
      header = _header(header, rng)
    elif what < 18 and sections:
      i = rng.randrange(len(sections))
      payload = _payload(sections[i].payload, rng, change)
      sections[i] = bitstream.Section(sections[i].kind, payload)
    elif what == 18:
      kind = rng.choice((1, 2, 0x40, 0x41, *range(0x81, 0x85), rng.randrange(256)))
      section = bitstream.Section(kind, rng.randbytes(rng.randrange(4)))
      sections.insert(rng.randrange(len(sections) + 1), section)
    elif sections:
      del sections[rng.randrange(len(sections))]
  if rng.random() < 0.01:
    version = rng.randrange(256)
  return assemble(version, header, sections)


def every_damage(data):
  """Every truncation, every added byte and every other value of every byte."""
  yield from (data[:n] for n in range(len(data)))
  yield from (data + bytes([x]) for x in range(256))
  for i in range(len(data)):
    values = (x for x in range(256) if x != data[i])
    yield from (data[:i] + bytes([x]) + data[i + 1 :] for x in values)


def judge_every_flipped_bit(judge, data):
  """Shows `judge` the file with each bit before its checksum flipped, repaired."""
  body = data[:-4]
  for i in range(8 * len(body)):
    damaged = bytearray(body)
    damaged[i // 8] ^= 1 << i % 8
    judge(with_checksum(bytes(damaged)))


def judge_mutations(judge, files, count):
  """Shows `judge` seeded mutations of the files, and prints what came of them."""
  rng = random.Random(0)
  pool = list(files)
  for _ in range(count):
    data = mutate(rng.choice(pool), rng)
    if judge(data) and len(data) < 2000 and data not in pool:
      # mutations of mutations, around the sound ones
      pool[len(files) + rng.randrange(20) :] = [data]
  print(
    f'{judge.errors} errors, {judge.pictures} pictures, slowest '
    f'{judge.slowest:.2f} s, memory grown by {judge.grown / 2**20:.0f} MiB'
  )
