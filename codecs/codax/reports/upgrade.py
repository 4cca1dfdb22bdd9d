"""Results of older schemas, brought up to the present one.

Schema 0 had no kind: it is told here, and nowhere else, by the keys of a file. Its rows
named the image with its operating point under 'picture'.
"""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

_STATISTICS = {'summary': 'curves', 'switches': 'ablation', 'gains': 'gains'}


def upgrade(content: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Brings results up to the present schema; those that are stay as they are.

  Args:
    content: JSON of a results file.
    name: name of the file, without suffix; it names studies without a command.

  Raises:
    KeyError, TypeError, ValueError, AttributeError: it holds no results.
  """
  if 'kind' in content:
    content['schema']
    return dict(content)
  kind = _kind(content)
  out = {'kind': kind, 'schema': 1, **content}
  if kind in ('held_out', 'comparison'):
    out['rows'] = [row(one) for one in content['rows']]
  if kind == 'comparison':
    out['means'] = [_renamed(one) for one in content['means']]
    out['missed'] = [_renamed(one) for one in content.get('missed', ())]
  if kind == 'sweep':
    out['runs'] = [run(one) for one in content['runs']]
    for old, new in _STATISTICS.items():
      if old in out:
        out |= {'comparison': new, 'settings': out.pop(old)}
  if kind == 'study':
    script = content.get('command', f'python {name}.py').split()[1]
    out['study'] = PurePath(script).stem
    out['columns'] = {'count': 'Gaussians', **out['columns']}
    out['images'] = [_study_image(one) for one in out.pop('claims')]
  return out


def run(content: Mapping[str, Any]) -> dict[str, Any]:
  """Brings one run of a sweep up to the present schema."""
  points = [
    {'images' if key == 'pictures' else key: value for key, value in point.items()}
    for point in content['curve']
  ]
  return {**content, 'files': [row(one) for one in content['files']], 'curve': points}


def row(content: Mapping[str, Any]) -> dict[str, Any]:
  """Brings one row up to the present schema: image and point in place of 'picture'."""
  if 'picture' not in content:
    return dict(content)
  label = content['picture']
  out = {key: value for key, value in content.items() if key != 'picture'}
  image = out.pop('image', label)
  codec, point = out.pop('codec', None), out.pop('point', None)
  point = point or point_of(label, image, out)
  first = {'image': image, 'codec': codec, 'point': point}
  return {**{k: v for k, v in first.items() if v is not None}, **out}


def point_of(label: str, image: str, facts: Mapping[str, Any]) -> str:
  """Names the operating point of a file that a label names with its image.

  Args:
    label: image, with '_' and the point's number if the run has several points:
      'kodim01.png_0.004', 'kodim01.png_0.28bpp' or 'kodim01.png_1500'.
    image: name of the image.
    facts: further figures of the file.

  Returns:
    'lmbda 0.004', 'bpp 0.28', 'count 1500' or 'default'.
  """
  if 'point' in facts:
    return facts['point']
  if 'lmbda' in facts:
    return f'lmbda {facts["lmbda"]:g}'
  number = label.removeprefix(image).removeprefix('_')
  if number.endswith('bpp'):
    return f'bpp {number.removesuffix("bpp")}'
  return f'count {number}' if number.isdigit() else 'default'


def _study_image(content: Mapping[str, Any]) -> dict[str, Any]:
  """Brings one image of a study up to the present schema: counts are numbers too."""
  out = _renamed(content)
  return {**out, 'numbers': {'count': out.pop('count'), **out.pop('numbers')}} | {
    'fits': out['fits']
  }


def _renamed(content: Mapping[str, Any]) -> dict[str, Any]:
  return {'image' if k == 'picture' else k: v for k, v in content.items()}


def _kind(content: Mapping[str, Any]) -> str:
  """Tells the kind of a file of schema 0."""
  if 'runs' in content:
    return 'sweep'
  if 'claims' in content:
    return 'study'
  if 'published' in content:
    return 'published'
  if 'decoded' in content:
    return 'decode_times'
  if 'steps_timed' in content:
    return 'train_times' if 'batch' in content else 'step_times'
  if 'means' in content and 'rows' in content:
    return 'comparison'
  if 'rows' in content:
    return 'held_out'
  raise ValueError('neither kind nor rows')
