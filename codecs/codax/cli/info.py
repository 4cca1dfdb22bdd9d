"""`codax info` and `codax models`: facts for people, or all of them as JSON."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from codax import console, families, pretrained
from codax.cli import streams

# Facts for developers, which only --json has.
_FOR_DEVELOPERS = ('family_id', 'format_version', 'profile', 'overhead')
_MAX_ITEMS = 8  # of a list; the rest is counted


def run(args: argparse.Namespace) -> None:
  """Prints the facts in a file's container and those of its family."""
  data = streams.read_cdx(args.input)
  with streams.naming(args.input):
    facts = families.describe(data)
  if args.json:
    console.show(json.dumps({'file': args.input, **facts}))
    return
  lines = _describe_container(streams.name_input(args.input), facts)
  shown = {'bytes', 'height', 'width', 'channels', 'family', 'bundle_id', 'bpp'}
  shown |= {'orientation', 'color_space', 'sections', *_FOR_DEVELOPERS}
  for name, value in facts.items():
    if name not in shown:
      lines += _flatten(_make_label(name), value)
  width = max(len(label) for label, _ in lines)
  for label, text in lines:
    console.show(f'{label:<{width}}  {text}')


def _describe_container(name: str, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Makes lines, (label, text), of facts that every file has."""
  color = {1: 'grey', 3: 'RGB'}.get(facts['channels'], f'{facts["channels"]} channels')
  if any(one['name'] == 'alpha' for one in facts['sections']):
    color += ' with alpha'
  sections = [f'{one["name"]} ({one["bytes"]} bytes)' for one in facts['sections']]
  unknown = f'unknown (family {facts["family_id"]} of a newer codax)'
  lines = [
    ('file', name),
    ('image', f'{facts["width"]} x {facts["height"]} {color}'),
    ('size', f'{facts["bytes"]} bytes, {facts["bpp"]:.4f} bpp'),
    ('colors', facts['color_space']),
    ('codec', facts['family'] or unknown),
    ('model', facts['bundle_id'] or 'none needed'),
    ('sections', ', '.join(sections) or 'none'),
  ]
  if facts['orientation'] != 1:
    lines.append(('orientation', f'{facts["orientation"]} (EXIF; viewers turn it)'))
  return lines


def _flatten(label: str, value: Any) -> list[tuple[str, str]]:
  """Makes lines, (label, text), of a fact that may hold others."""
  if isinstance(value, Mapping) and value:
    return [
      line
      for key, inner in value.items()
      for line in _flatten(f'{label}: {_make_label(key)}', inner)
    ]
  return [(label, _format(value))]


def _make_label(name: object) -> str:
  """Makes words of a fact's name."""
  return str(name).replace('_', ' ')


def _format(value: Any) -> str:
  """Formats a fact without the punctuation of a program."""
  if value is None:
    return 'unknown'
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, float):
    return f'{value:.6g}'
  if isinstance(value, Mapping):
    return ', '.join(f'{_format(x)} {_make_label(k)}' for k, x in value.items()) or '–'
  if isinstance(value, Sequence) and not isinstance(value, str):
    return _format_list(value)
  return str(value)


def _format_list(values: Sequence[Any]) -> str:
  """Formats a list; pairs of numbers are ranges."""
  is_pair = lambda x: isinstance(x, Sequence) and len(x) == 2
  if values and all(is_pair(x) and not isinstance(x, str) for x in values):
    texts = [f'{_format(low)}..{_format(high)}' for low, high in values]
    separator = ', '
  else:
    texts = [_format(value) for value in values]
    separator = '; ' if any(isinstance(x, Mapping) for x in values) else ', '
  if len(texts) > _MAX_ITEMS:
    rest = len(texts) - _MAX_ITEMS
    texts = [*texts[: _MAX_ITEMS - 1], texts[-1]]
    texts.insert(-1, f'... ({rest} more)')
  return separator.join(texts) or 'none'


def run_models(args: argparse.Namespace) -> None:
  """Prints the models that come with the package."""
  models = pretrained.models()
  if args.json:
    console.show(json.dumps([model._asdict() for model in models]))
    return
  for model in models:
    size = (pretrained.FOLDER / model.file).stat().st_size
    console.show(f'{model.name} ({model.family}, {size} bytes): {model.summary}')
    metrics = ', '.join(f'{key} {value}' for key, value in model.metrics.items())
    for label, text in {
      'trained on': model.data,
      'licence': model.licence,
      'measured': metrics,
      'made by': model.command,
      'sha256': model.sha256,
    }.items():
      if text:
        console.show(f'  {label:<10}  {text}')
