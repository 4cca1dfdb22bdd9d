"""What image files say about colors, in its order: chunks, boxes, profiles, EXIF."""

import io
import itertools
import random
import struct
import zlib

import hostile
import icc_samples as samples
import numpy as np
import pytest
from fake_family import smooth_image
from PIL import Image, ImageCms

from codax import image_io
from codax.color import boxes, recognition, sections, spaces
from codax.color.spaces import ColorSpace
from codax.errors import CodaxError

P3 = ColorSpace(spaces.DISPLAY_P3)
ADOBE = ColorSpace(spaces.ADOBE_RGB)
CICP = {
  'p3': b'\x0c\x0d\0\1', 'pq': b'\x09\x10\0\1', 'srgb': b'\x01\x0d\0\1',
  'narrow': b'\x09\x12\0\0', 'unspecified': b'\2\2\0\1', 'half': b'\x0c\2\0\1',
  'matrix': b'\x0c\x0d\1\1', 'range': b'\x0c\x0d\0\2', 'short': b'\x0c\x0d\0',
  'future': b'\xc8\xc9\0\1',
}  # fmt: skip
SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3_CHROMATICITIES = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


def chunk(kind, data):
  body = kind + data
  return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))


def gama(value):
  return b'gAMA', struct.pack('>I', round(100_000 * value))


def chrm(values):
  return b'cHRM', struct.pack('>8I', *(round(100_000 * v) for v in values))


def iccp(profile):
  return b'iCCP', b'x\0\0' + zlib.compress(profile)


def png(*chunks, channels=3):
  """A PNG file by hand: these chunks, then smooth pixels."""
  pixels = smooth_image(9, 8, channels)
  rows = b''.join(b'\0' + row.tobytes() for row in pixels)
  head = struct.pack('>IIBBBBB', 8, 9, 8, 2 if channels == 3 else 0, 0, 0, 0)
  parts = [(b'IHDR', head), *chunks, (b'IDAT', zlib.compress(rows)), (b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in parts)


def read(data):
  return image_io.read_bytes(data, 'x')


def test_png_chunks_go_before_each_other_as_the_standard_says():
  """cICP, iCCP, sRGB, then gAMA with cHRM: every subset of them."""
  ranked = [
    ((b'cICP', CICP['p3']), P3),
    (iccp(samples.rgb(samples.ADOBE_RGB, 2.2)), ADOBE),
    ((b'sRGB', b'\0'), ColorSpace()),
    (chrm(P3_CHROMATICITIES), ColorSpace(b'\x0c\x08')),
  ]
  linear = gama(1.0)
  for size in range(1, 5):
    for some in itertools.combinations(ranked, size):
      read_back = read(png(linear, *(one for one, _ in some)))
      assert read_back.color == some[0][1] and read_back.notes == ()
      assert np.array_equal(read_back.pixels, smooth_image(9, 8))


@pytest.mark.parametrize(
  'name, color, note',
  [
    ('p3', P3, None), ('pq', ColorSpace(b'\x09\x10'), None),
    ('srgb', ColorSpace(), None), ('narrow', ColorSpace(b'\x09\x12\0'), None),
    ('future', ColorSpace(b'\xc8\xc9'), None),
    ('unspecified', ADOBE, None), ('half', ADOBE, 'leaves the colors open (12, 2)'),
    ('matrix', ADOBE, 'damaged'), ('range', ADOBE, 'damaged'),
    ('short', ADOBE, 'damaged'),
  ],
)  # fmt: skip
def test_cicp_is_kept_or_the_next_chunk_counts(name, color, note):
  profile = iccp(samples.rgb(samples.ADOBE_RGB, 2.2))
  found = read(png((b'cICP', CICP[name]), profile))
  assert found.color == color
  assert len(found.notes) == bool(note) and all(note in text for text in found.notes)


def test_cicp_of_grey_has_a_transfer_only():
  gamma = iccp(samples.grey(2.2))
  for name, code in (('p3', spaces.SRGB), ('pq', b'\x09\x10')):
    found = read(png((b'cICP', CICP[name]), gamma, channels=1))
    assert found.color == ColorSpace(code) and found.notes == ()
  for name, count in (('unspecified', 0), ('half', 1)):
    found = read(png((b'cICP', CICP[name]), gamma, channels=1))
    assert found.color == ColorSpace(spaces.GAMMA_22) and len(found.notes) == count


def test_cicp_behind_the_pixels_does_not_count():
  data = png()
  end = data.index(b'IEND') - 4
  assert (
    read(data[:end] + chunk(b'cICP', CICP['p3']) + data[end:]).color == ColorSpace()
  )


def test_description_of_the_hdr_display_is_said_to_be_dropped():
  for name in (b'mDCV', b'cLLI'):
    found = read(png((b'cICP', CICP['pq']), (name, bytes(24))))
    assert found.color == ColorSpace(b'\x09\x10') and 'HDR' in found.notes[0]


@pytest.mark.parametrize(
  'chunks, code',
  [
    ([gama(0.45455)], spaces.SRGB),
    ([gama(0.45455), chrm(SRGB_CHROMATICITIES)], spaces.SRGB),
    ([chrm(SRGB_CHROMATICITIES)], spaces.SRGB),
    ([gama(0.45)], spaces.SRGB),
    ([chrm(P3_CHROMATICITIES)], spaces.DISPLAY_P3),
    ([gama(0.45455), chrm(P3_CHROMATICITIES)], b'\x0c\x04'),
    ([gama(1.0)], b'\x01\x08'),
    ([gama(0.45471), chrm((0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06))],
     spaces.ADOBE_RGB),
    ([gama(0.35714)], b'\x01\x05'),
  ],
)  # fmt: skip
def test_gamma_and_chromaticities_of_a_named_space_are_its_code(chunks, code):
  found = read(png(*chunks))
  assert found.color == ColorSpace(code) and found.notes == ()


def test_gamma_of_grey_needs_no_chromaticities():
  cases = {0.45455: spaces.SRGB, 1.0: b'\x01\x08', 0.55556: spaces.PROPHOTO_RGB}
  for gamma, code in cases.items():
    for more in ([], [chrm(P3_CHROMATICITIES)]):
      found = read(png(gama(gamma), *more, channels=1))
      assert found.color == ColorSpace(code) and found.notes == ()


@pytest.mark.parametrize('channels', [1, 3])
def test_other_gammas_become_a_profile_that_littlecms_reads_alike(channels):
  values = (0.31, 0.32, 0.62, 0.34, 0.29, 0.58, 0.16, 0.07)
  found = read(png(gama(0.5), chrm(values), channels=channels))
  assert found.notes == () and len(found.color.icc) < 600
  made = sections.make_sections(found.color)
  assert len(made[0].payload) < 260
  opened = ImageCms.ImageCmsProfile(io.BytesIO(found.color.icc))
  if channels == 3:
    matrix = np.array(opened.profile.chromatic_adaptation[0])
    for name, at in (('red', 2), ('green', 4), ('blue', 6)):
      xyz = np.linalg.solve(matrix, getattr(opened.profile, f'{name}_colorant')[0])
      assert np.allclose(xyz[:2] / xyz.sum(), values[at : at + 2], atol=3e-4)
  grey = np.arange(256, dtype=np.uint8)[None]
  im = Image.fromarray(grey if channels == 1 else np.repeat(grey[..., None], 3, 2))
  shown = ImageCms.profileToProfile(
    im, opened, ImageCms.createProfile('sRGB'), outputMode='RGB'
  )
  light = samples.srgb_light(np.array(shown)[0, :, 1] / 255)
  assert np.abs(light - (np.arange(256) / 255) ** 2).max() < 0.006


@pytest.mark.parametrize(
  'chunks',
  [
    [gama(0.0)], [gama(21000.0)], [chrm((0,) * 8)], [chrm((0.3, 0.3) * 4)],
    [gama(0.5), chrm((0.3127, 0.329, 0.64, 0.0, 0.3, 0.6, 0.15, 0.06))],
    [chrm((0.8, 0.1, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06))],
  ],
)  # fmt: skip
def test_gamma_and_chromaticities_of_nonsense_are_dropped_with_a_note(chunks):
  found = read(png(*chunks))
  assert found.color == ColorSpace()
  assert found.notes == ('gAMA and cHRM make no color space and were dropped',)


def test_damaged_profile_in_png_is_dropped_with_a_note():
  broken = (b'iCCP', b'x\0\0' + zlib.compress(samples.rgb())[:-40])
  for part, reason in (
    (broken, 'cut short'), ((b'iCCP', b'x\0\0' + b'\xff' * 9), 'damaged'),
    (iccp(samples.rgb()[:900]), 'cut short'),
    (iccp(b'nonsense' * 40), 'start like one'),
    (iccp(samples.grey()), 'another color space (GRAY)'),
    (iccp(samples.lut()), 'another color space (CMYK)'),
  ):  # fmt: skip
    found = read(png(part))
    assert found.color == ColorSpace()
    assert len(found.notes) == 1 and reason in found.notes[0]
    assert 'dropped' in found.notes[0]


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'TIFF', 'AVIF'])
def test_profiles_of_every_format_are_recognized_checked_or_kept(kind):
  im = Image.fromarray(smooth_image(16, 24))
  monitor = samples.rgb(gamma=1.9)
  for profile, color, notes in (
    (samples.rgb(), ColorSpace(), 0),
    (samples.display_p3(), P3, 0),
    (samples.rgb(samples.ADOBE_RGB, 2.2), ADOBE, 0),
    (monitor, ColorSpace(icc=monitor), 0),
    (monitor[:-20], ColorSpace(), 1),
    (samples.lut(), ColorSpace(), 1),
  ):
    out = io.BytesIO()
    try:
      im.save(out, kind, icc_profile=profile)
    except ValueError:  # a format whose writer checks profiles
      assert notes and kind == 'AVIF'
      continue
    found = read(out.getvalue())
    assert found.color == color and len(found.notes) == notes


def avif_with(primaries, transfer):
  out = io.BytesIO()
  Image.fromarray(smooth_image(16, 24)).save(out, 'AVIF')
  return boxes.set_nclx(out.getvalue(), primaries, transfer)


@pytest.mark.parametrize(
  'codes, color',
  [
    ((12, 13), P3), ((9, 16), ColorSpace(b'\x09\x10')), ((1, 13), ColorSpace()),
    ((2, 2), ColorSpace()), ((9, 18), ColorSpace(b'\x09\x12')),
    ((1, 1), ColorSpace(b'\1\1')),
  ],
)  # fmt: skip
def test_codes_of_avif_are_kept(codes, color):
  data = avif_with(*codes)
  assert boxes.read_nclx(io.BytesIO(data))[:2] == codes
  found = read(data)
  assert found.color == color and found.notes == ()
  assert np.array_equal(found.pixels, read(avif_with(1, 13)).pixels)
  # the codes are where the standard has them: behind the type of the box
  at = data.index(b'nclx') + 4
  assert struct.unpack('>HH', data[at : at + 4]) == codes


def test_damaged_boxes_of_avif_are_no_codes():
  data = avif_with(12, 13)
  end = data.index(b'mdat')
  for i in range(end):
    for value in (0, 1, 127, 255):
      damaged = data[:i] + bytes([value]) + data[i + 1 :]
      found = boxes.read_nclx(io.BytesIO(damaged))
      assert found is None or 0 <= found.primaries < 65536
  for n in range(0, end, 3):
    found = boxes.read_nclx(io.BytesIO(data[:n]))
    assert found is None or found[:2] == (12, 13)


def test_boxes_of_avif_are_those_of_the_shown_image():
  """A second image with other codes, wide numbers, and a large box before `meta`."""

  def box(kind, *parts):
    body = b''.join(parts)
    return struct.pack('>I4s', 8 + len(body), kind) + body

  def colr(primaries):
    return box(b'colr', b'nclx', struct.pack('>HHHB', primaries, 13, 6, 128))

  def ipma(version, wide, links):
    number = '>H' if wide else '>B'
    ident = '>H' if version == 0 else '>I'
    high = 0x8000 if wide else 0x80
    body = struct.pack('>BBBB', version, 0, 0, wide) + struct.pack('>I', len(links))
    for image, numbers in links:
      body += struct.pack(ident, image) + bytes([len(numbers)])
      body += b''.join(struct.pack(number, n | high) for n in numbers)
    return box(b'ipma', body)

  for version, wide in itertools.product((0, 1), (0, 1)):
    ipco = box(b'ipco', box(b'ispe', bytes(12)), colr(9), colr(12))
    links = ipma(version, wide, [(1, [1, 2]), (7, [1, 3])])
    meta = box(
      b'meta', bytes(4), box(b'pitm', bytes(4), b'\0\7'), box(b'iprp', ipco, links)
    )
    large = struct.pack('>I4sQ', 1, b'free', 16 + 5) + bytes(5)
    data = box(b'ftyp', b'avif') + large + meta
    found = boxes.read_nclx(io.BytesIO(data))
    assert found[:2] == (12, 13)
    assert data[found.offset : found.offset + 4] == b'\0\x0c\0\x0d'


def test_profile_of_avif_goes_before_its_codes():
  out = io.BytesIO()
  Image.fromarray(smooth_image(16, 24)).save(
    out, 'AVIF', icc_profile=samples.rgb(samples.ADOBE_RGB, 2.2)
  )
  assert read(out.getvalue()).color == ADOBE


def test_profile_of_jpeg_2000_is_kept():
  """In place of the number of a color space, as the standard has it."""
  out = io.BytesIO()
  Image.fromarray(smooth_image(16, 24)).save(out, 'JPEG2000', irreversible=False)
  data = out.getvalue()
  at = data.index(b'jp2h') - 4
  end = at + int.from_bytes(data[at : at + 4])
  for profile, color in (
    (samples.display_p3(), P3), (samples.rgb(gamma=1.9)[:500], ColorSpace()),
  ):  # fmt: skip
    colr = b'colr\x02\0\0' + profile
    header = data[at + 4 : end - 15] + struct.pack('>I', 4 + len(colr)) + colr
    made = data[:at] + struct.pack('>I', 4 + len(header)) + header + data[end:]
    found = read(made)
    assert found.color == color and len(found.notes) == (color != P3)
    assert np.array_equal(found.pixels, smooth_image(16, 24))


def test_primaries_of_tiff_tags_are_said_to_be_dropped():
  from PIL import TiffImagePlugin

  for values, count in ((SRGB_CHROMATICITIES, 0), (P3_CHROMATICITIES, 1)):
    for profile in (None, samples.rgb()):
      tags = TiffImagePlugin.ImageFileDirectory_v2()
      tags[319] = values[2:]
      out = io.BytesIO()
      im = Image.fromarray(smooth_image(16, 24))
      im.save(out, 'TIFF', tiffinfo=tags, icc_profile=profile)
      found = read(out.getvalue())
      assert found.color == ColorSpace()
      assert len(found.notes) == count * (profile is None)


def jpeg_of_a_camera(index, profile=None):
  """A JPEG whose EXIF has this interoperability index."""
  exif = Image.Exif()
  exif.get_ifd(0x8769)[0xA001] = 65535
  exif.get_ifd(0x8769)[0xA005] = {1: index}
  out = io.BytesIO()
  Image.fromarray(smooth_image(16, 24)).save(
    out, 'JPEG', exif=exif, icc_profile=profile
  )
  return out.getvalue()


def test_adobe_rgb_of_cameras_without_a_profile_is_kept():
  assert read(jpeg_of_a_camera('R03')).color == ADOBE
  assert read(jpeg_of_a_camera('R98')).color == ColorSpace()
  assert read(jpeg_of_a_camera('R03', samples.rgb())).color == ColorSpace()


def test_cmyk_is_converted_through_its_profile():
  amounts = np.stack(np.meshgrid(*[[0, 60, 255]] * 4), -1).reshape(9, 9, 4)
  im = Image.fromarray(amounts.astype(np.uint8), 'CMYK')
  for name, options in (('x.tif', {}), ('x.jpg', {'quality': 100, 'subsampling': 0})):
    out = io.BytesIO()
    kind = image_io.file_format(name)
    im.save(out, kind, icc_profile=samples.lut(), **options)
    found = read(out.getvalue())
    inks = Image.open(io.BytesIO(out.getvalue()))
    wanted = ImageCms.profileToProfile(
      inks, ImageCms.ImageCmsProfile(io.BytesIO(samples.lut())),
      ImageCms.createProfile('sRGB'), ImageCms.Intent.RELATIVE_COLORIMETRIC,
      outputMode='RGB', flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip
    assert np.array_equal(found.pixels, np.array(wanted))
    assert found.color == ColorSpace()
    assert 'by the ICC profile "a test of inks"' in found.notes[0]
    naive = np.array(inks.convert('RGB')).astype(int)
    assert np.abs(naive - found.pixels).max() > 30


def test_cmyk_without_a_sound_profile_is_converted_plainly_with_notes():
  im = Image.fromarray(np.full((9, 9, 4), 60, np.uint8), 'CMYK')
  for profile in (None, samples.rgb(), samples.lut()[:-100], b'nonsense'):
    out = io.BytesIO()
    im.save(out, 'TIFF', icc_profile=profile)
    found = read(out.getvalue())
    assert np.array_equal(found.pixels, np.array(im.convert('RGB')))
    assert 'CMYK colours were turned into RGB' in found.notes
    assert any('could not be used' in note for note in found.notes) == bool(profile)


def test_grey_profile_of_a_format_without_grey_is_kept_as_one_of_rgb():
  paper = samples.grey(curve=samples.table(256, lambda x: 0.8 * x**1.7 + 0.2 * x))
  image = image_io.ImageFile(smooth_image(16, 24, 1), ColorSpace(icc=paper))
  for kind in ('WEBP', 'AVIF'):
    data, notes = image_io.format_image(image, kind)
    assert not any('dropped' in note for note in notes)
    found = read(data)
    assert found.pixels.shape[2] == 3 and found.notes == ()
    curve = recognition.icc.read(found.color.icc, b'RGB ').tags[b'gTRC']
    assert curve == recognition.icc.read(paper, b'GRAY').tags[b'kTRC']


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'TIFF', 'AVIF', 'JPEG2000'])
def test_damaged_image_with_a_profile_is_refused_or_has_a_sound_one(kind):
  out, rng = io.BytesIO(), random.Random(0)
  im = Image.fromarray(smooth_image(16, 24))
  im.save(out, kind, icc_profile=samples.rgb(curve=samples.small_table()))
  data = out.getvalue()
  for _ in range(80):
    place = rng.randrange(min(len(data), 1200))
    damaged = data[:place] + hostile.damage(data[place:], rng)
    try:
      found = read(damaged)
    except CodaxError as e:
      assert '\n' not in str(e)
      continue
    channels = found.pixels.shape[2]
    color, notes = sections.read_sections(sections.make_sections(found.color), channels)
    assert color == found.color and notes == ()
