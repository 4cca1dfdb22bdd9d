"""ICC profiles of many makers' habits, written apart from `codax.color.profiles`.

Numbers are those that well-known profiles have. Nothing is imported from codax.
"""

import io
import struct

import numpy as np
from PIL import ImageCms

# XYZ of red, green and blue as profiles in use have them.
SRGB_1998 = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708),
             (0.14307, 0.06061, 0.71410))  # fmt: skip
SRGB_ROUNDED = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971),
                (0.1431, 0.0606, 0.7141))  # fmt: skip
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189),
              (0.1571, 0.06657, 0.78407))  # fmt: skip
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087),
             (0.14919, 0.06322, 0.74457))  # fmt: skip
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0),
            (0.03134, 0.00009, 0.82491))  # fmt: skip
GENERIC = ((0.4543, 0.24191, 0.01489), (0.35335, 0.67363, 0.09064),
           (0.15665, 0.08446, 0.71957))  # fmt: skip
D50, D65 = (0.9642, 1.0, 0.82491), (0.95045, 1.0, 1.08905)
SRGB_PARAMETERS = (2.39999, 0.94786, 0.05214, 0.07739, 0.04045)


def srgb_light(x):
  x = np.asarray(x, float)
  return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def s15(values):
  return struct.pack(f'>{len(values)}i', *(round(v * 65536) for v in values))


def xyz(values):
  return b'XYZ \0\0\0\0' + s15(values)


def curv(values):
  return struct.pack(f'>4s4xI{len(values)}H', b'curv', len(values), *values)


def table(count, light=srgb_light):
  values = np.rint(65535 * light(np.arange(count) / (count - 1))).astype(int)
  return curv(values.tolist())


def small_table(count=26):
  """A table of few entries, each above the curve: lines between them err both ways."""
  x = np.arange(count) / (count - 1)
  middle = (
    srgb_light((x[:-1] + x[1:]) / 2) - (srgb_light(x)[:-1] + srgb_light(x)[1:]) / 2
  )
  shift = np.zeros(count)
  shift[1:-1] = (middle[1:] + middle[:-1]) / 4
  return curv(np.rint(65535 * (srgb_light(x) + shift)).astype(int).tolist())


def gamma_curve(gamma):
  return curv([round(256 * gamma)])


def para(kind, *values):
  return struct.pack('>4s4xH2x', b'para', kind) + s15(values)


def old_text(text):
  data = text.encode() + b'\0'
  return struct.pack('>4s4xI', b'desc', len(data)) + data + bytes(78)


def new_text(text):
  data = text.encode('utf-16-be')
  return struct.pack('>4s4xII4sII', b'mluc', 1, 12, b'enUS', len(data), 28) + data


def assemble(tags, space=b'RGB ', kind=b'mntr', version=2, connection=b'XYZ '):
  """A profile of these tags; each has its own contents, in order."""
  start, table_, body = 132 + 12 * len(tags), b'', b''
  for name, content in tags.items():
    table_ += name + struct.pack('>II', start + len(body), len(content))
    body += content + bytes(-len(content) % 4)
  size = start + len(body)
  head = struct.pack('>I4sBB2x4s4s4s', size, b'lcms', version, 0x10, kind, space,
                     connection)  # fmt: skip
  head += struct.pack('>6H4s', 1998, 2, 9, 6, 49, 0, b'acsp') + bytes(28) + s15(D50)
  return head.ljust(128, b'\0') + struct.pack('>I', len(tags)) + table_ + body


def rgb(
  colors=SRGB_1998, gamma=None, curve=None, white=D65, version=2, more=None, **kw
):
  """A profile of three colors and one curve, sRGB's of 1,024 entries by default."""
  if curve is None:
    curve = table(1024) if gamma is None else gamma_curve(gamma)
  text = old_text('a test') if version == 2 else new_text('a test')
  tags = {b'desc': text, b'cprt': text, b'wtpt': xyz(white)}
  tags |= dict(zip((b'rXYZ', b'gXYZ', b'bXYZ'), map(xyz, colors)))
  tags |= {b'rTRC': curve, b'gTRC': curve, b'bTRC': curve, **(more or {})}
  return assemble(tags, version=version, **kw)


def grey(gamma=None, curve=None, **kw):
  if curve is None:
    curve = table(1024) if gamma is None else gamma_curve(gamma)
  text = old_text('a grey test')
  tags = {b'desc': text, b'cprt': text, b'wtpt': xyz(D65), b'kTRC': curve}
  return assemble(tags, b'GRAY', **kw)


def display_p3():
  """As Apple's: version 4, parametric curves, adapted white and its matrix."""
  chad = (1.04788, 0.02292, -0.0502, 0.02959, 0.99048, -0.01706, -0.00923, 0.01508,
          0.75167)  # fmt: skip
  more = {b'chad': b'sf32\0\0\0\0' + s15(chad)}
  curve = para(3, *SRGB_PARAMETERS)
  return rgb(DISPLAY_P3, curve=curve, white=D50, version=4, more=more)


def lcms_srgb():
  return ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def lut_tag(channels):
  """A table of two points a channel, in Lab: inks take away light and add color."""
  amounts = np.stack(np.meshgrid(*[[0, 1]] * channels, indexing='ij'), -1)
  amounts = amounts.reshape(-1, channels)
  effect = np.array([[-40, -35, -45], [-48, 70, -5], [-8, -5, 85], [-85, 0, 0]])
  lab = np.array([100, 0, 0]) + amounts @ effect[:channels]
  lab = np.clip(lab, [0, -128, -128], [100, 127, 127])
  corners = np.rint(lab * [2.55, 1, 1] + [0, 128, 128]).astype(np.uint8)
  tag = struct.pack('>4s4xBBBx', b'mft1', channels, 3, 2) + s15(np.eye(3).ravel())
  identity = bytes(range(256))
  return tag + identity * channels + corners.tobytes() + identity * 3


def lut(space=b'CMYK'):
  """A profile whose colors are a table."""
  table_ = lut_tag(4 if space == b'CMYK' else 3)
  text = old_text('a test of inks')
  tags = {b'desc': text, b'cprt': text, b'wtpt': xyz(D50), b'A2B0': table_}
  return assemble(tags, space, b'prtr', connection=b'Lab ')


def opens_in_lcms(profile):
  """Whether LittleCMS makes a transform of a profile."""
  mode = {b'RGB ': 'RGB', b'GRAY': 'L', b'CMYK': 'CMYK'}.get(profile[16:20])
  try:
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    ImageCms.buildTransform(opened, ImageCms.createProfile('sRGB'), mode, 'RGB')
  except (ImageCms.PyCMSError, OSError, ValueError):
    return False
  return True
