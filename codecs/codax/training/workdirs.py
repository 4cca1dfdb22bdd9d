"""Work directories: whether one has results, and whether images in it are safe."""

import os
from pathlib import Path
from typing import Any

from codax.errors import CodaxError

# Files that took work to make, and folders in which they are looked for at any depth.
_RESULTS = ('results.json', 'metrics.csv', 'bundle.safetensors')
_KEPT = {
  'checkpoints': 'codax_manifest.json',
  'buckets': 'codax_manifest.json',
  'files': '*.json',
}
_FITS = 'fits.safetensors'
# Folders of a work directory that runs write files to.
_FOLDERS = (*_KEPT, 'images', 'tensorboard', 'wandb', 'profile', 'curve', 'outside')
_FOLDERS += ('figures',)


def has_results(workdir: str | Path) -> bool:
  """Returns whether anything in a work directory took work to make.

  Without that it is free: a first command that failed does not block the next one.
  """
  workdir = Path(workdir)
  return (
    any((workdir / name).exists() for name in _RESULTS)
    or any(any((workdir / folder).rglob(name)) for folder, name in _KEPT.items())
    or any((workdir / 'buckets').rglob(_FITS))
  )


def check_place(workdir: str | Path, data: Any) -> None:
  """Checks that a run can live in a work directory, and not among its images.

  It must neither overwrite them nor add its own to them.

  Args:
    workdir: work directory of the run.
    data: section ``data`` of the configuration; only a ``path`` in it matters.

  Raises:
    CodaxError: the work directory is an address (``gs://...``), its path is no UTF-8,
      which checkpoints need, it is in the folder of images, or that folder is one that
      runs write to.
  """
  first = Path(workdir).parts[:1]
  if first and first[0].endswith(':') and len(first[0]) > 2:  # C: is a drive of Windows
    raise CodaxError(f'{workdir}: a work directory is a folder, not an address')
  try:
    os.fsencode(os.path.realpath(workdir)).decode()
  except UnicodeDecodeError as e:
    raise CodaxError(
      f'the path of the work directory {workdir} is no UTF-8, which checkpoints need'
    ) from e
  path = data.get('path') if hasattr(data, 'get') else None
  if not path:
    return
  root, work = (Path(os.path.realpath(os.path.expanduser(p))) for p in (path, workdir))
  if work == root or root in work.parents:
    raise CodaxError(
      f'the work directory {workdir} is in the folder of images {path}, and the images '
      'that it gets would be taken for others of them; use another --workdir'
    )
  if work in root.parents and root.relative_to(work).parts[0] in _FOLDERS:
    raise CodaxError(
      f'{path} is in a folder to which the run in {workdir} writes its own images; use '
      'another --workdir'
    )
