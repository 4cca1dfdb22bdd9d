"""Folders for `codax encode` and `codax decode`: a file for every file, resumable.

Workers return bytes and this process alone writes them, under a temporary name that is
renamed, so that stopping it at any moment leaves whole files. A record in the output
folder says from which request and source each file came: such files are passed over.
"""

import argparse
import concurrent.futures as futures
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from codax import (
  alpha,
  codec,
  families,
  files,
  image_io,
  pretrained,
  provenance,
)
from codax.cli import flags, streams
from codax.errors import CodaxError

RECORD = '.codax.folder.jsonl'
_SETTINGS = ('codec', 'model', *(n for n in codec.Options._fields if n != 'extra'))


class _Made(NamedTuple):
  """The result of a job.

  Attributes:
    data: bytes of the file; empty where it failed.
    error: line on what went wrong, or None.
    notes: lines on losses and on all else that the user is told of single files.
  """

  data: bytes
  error: str | None = None
  notes: tuple[str, ...] = ()


class Job(NamedTuple):
  """A file to make.

  Attributes:
    source: file to read.
    output: file to write.
    name: `output` relative to the output folder.
    key: digest of the request and of the state of the source.
  """

  source: Path
  output: Path
  name: str
  key: str


def run(args: argparse.Namespace) -> int:
  """Makes a file for every file of a folder; returns 2 if some failed, else 0."""
  for name in ('details', 'prefix', 'scale'):
    if getattr(args, name, None) is not None:
      raise CodaxError(f'--{name} is for one file, and {args.input} is a folder')
  source, target = Path(args.input), Path(args.output)
  suffixes = {'.cdx', *Image.registered_extensions()}
  if not target.is_dir() and (target.exists() or target.suffix.lower() in suffixes):
    raise CodaxError(f'{source}: Is a directory: name one as the output, not {target}')
  if args.command == 'encode' and args.codec:  # wrong options end the command
    _make_codec(args, args.codec)
  with files.lock(target):
    _remove_temporaries(target)
    jobs, failed = _list_jobs(args, source, target)
    if not jobs and not failed:
      raise CodaxError(f'{source}: no files to {args.command}')
    done = _read_record(target / RECORD)
    wanted = [job for job in jobs if not _is_done(job, done)]
    broken, notes = _make_files(args, target / RECORD, wanted)
  made = len(jobs) - len(broken)
  text = f'{args.output}: {made} of {len(jobs)} files are there'
  streams.say(f'{text}, {len(jobs) - len(wanted)} of them from before')
  for line in notes + failed + broken:
    streams.note(line)
  return 2 if failed or broken else 0


def _make_files(
  args: argparse.Namespace, record: Path, jobs: list[Job]
) -> tuple[list[str], list[str]]:
  """Makes the files of jobs; returns a line for each that failed, and notes."""
  from codax.training import progress

  failed, notes = [], []
  with (
    open(record, 'a', encoding='utf-8') as log,
    progress.track(len(jobs), unit='file', write=progress.print_line) as shown,
  ):
    if record.stat().st_size:
      log.write('\n')  # a line that an earlier run was stopped in ends here
    for job, (data, error, more) in _results(args, jobs):
      notes += more
      if error is None:
        try:
          job.output.parent.mkdir(parents=True, exist_ok=True)
          files.write_bytes(job.output, data)
          entry = {'name': job.name, 'key': job.key, 'bytes': len(data)}
          log.write(json.dumps(entry) + '\n')
          log.flush()
        except OSError as e:
          error = f'{job.output}: {e.strerror}'
      if error is not None:
        failed.append(error)
      shown.advance(1)
  return failed, notes


def _results(args: argparse.Namespace, jobs: list[Job]) -> Iterator[tuple[Job, _Made]]:
  """Yields jobs with their results as they end."""
  if args.jobs == 1:
    for job in jobs:
      yield job, _try(args, job)
    return
  context = multiprocessing.get_context('spawn')  # a fork would copy JAX's threads
  pool = futures.ProcessPoolExecutor(args.jobs, context, _begin_worker)
  waiting, running = iter(jobs), {}
  try:
    while True:
      while len(running) < 2 * args.jobs and (job := next(waiting, None)) is not None:
        running[pool.submit(_try, args, job)] = job
      if not running:
        return
      ended, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
      for future in ended:
        yield running.pop(future), future.result()
  except futures.process.BrokenProcessPool as e:
    raise CodaxError(
      'a process of --jobs was ended from outside, perhaps for memory: the same '
      'command goes on, with fewer --jobs if need be'
    ) from e
  finally:
    for child in multiprocessing.active_children() if running else []:
      child.terminate()
    pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
  """Leaves signals to the parent, and ends this process when the parent has ended."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()

  def watch() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _try(args: argparse.Namespace, job: Job) -> _Made:
  """Makes the bytes of a job's file."""
  make, source = _encode if args.command == 'encode' else _decode, str(job.source)
  try:
    data, notes = make(args, source)
    return _Made(data, None, tuple(f'{source}: {text}' for text in notes))
  except MemoryError:
    return _Made(b'', f'{source}: does not fit into memory: try fewer --jobs')
  except (CodaxError, OSError) as e:
    text = ' '.join(str(e).split())
    return _Made(b'', text if source in text else f'{source}: {text}')


def _encode(args: argparse.Namespace, path: str) -> tuple[bytes, tuple[str, ...]]:
  """Encodes a file of the folder; returns its bytes and notes."""
  from codax.cli import encode

  keep_alpha = args.codec is None or families.keeps_alpha(args.codec)
  image = image_io.read(path, keep_alpha=keep_alpha)
  made = _make_codec(args, args.codec or encode.choose_codec(args, image.pixels))
  encoded = made.encode(alpha.join(image.pixels, image.alpha))
  data = encode.add_metadata(encoded.data, image, made)
  return data, (*image.notes, *encode.find_notes(encoded, None))


def _decode(args: argparse.Namespace, path: str) -> tuple[bytes, tuple[str, ...]]:
  """Decodes a file of the folder to PNG; returns its bytes and notes."""
  from codax.cli import decode

  return decode.decode_file(args, path, 'PNG')


def _make_codec(args: argparse.Namespace, name: str) -> codec.Codec:
  """Makes a codec, once a process."""
  options = flags.collect_options(args)
  extra = tuple(sorted(options.extra.items()))
  return _make_once(name, args.model, options._replace(extra=()), extra)


@functools.lru_cache(4)
def _make_once(name: str, model, options: codec.Options, extra: tuple) -> codec.Codec:
  """Makes a codec of hashable arguments."""
  families.start_devices(name)
  return families.get(name, model=model, options=options._replace(extra=dict(extra)))


def _list_jobs(
  args: argparse.Namespace, source: Path, target: Path
) -> tuple[list[Job], list[str]]:
  """Lists the files to make, and a line for each that two sources would become."""
  request = {name: getattr(args, name, None) for name in _SETTINGS}
  request['extra'] = {n: getattr(args, n, None) for n in families.every_option()}
  request |= {'command': args.command, 'model': _state(args.model)}
  request['version'] = provenance.versions()['codax']
  if args.model is None:  # models of the package: another one makes other files
    request['models'] = [model.sha256 for model in pretrained.models()]
  suffixes, ending = {'.cdx'}, '.png'
  if args.command == 'encode':
    suffixes = set(Image.registered_extensions()) - {'.cdx'}
    ending = families.codec_family(args.codec).suffixes[0] if args.codec else '.cdx'
  jobs, failed, seen = [], [], {}
  for path in _walk(source, target):
    if path.suffix.lower() not in suffixes:
      continue
    name = path.relative_to(source).as_posix()
    if args.command == 'decode':  # photo.png.cdx becomes photo.png
      name = name[: -len('.cdx')]
      name = name.removesuffix(ending)
    name += ending
    if (other := seen.setdefault(name.casefold(), path)) is not path:
      failed.append(f'{path}: would become {name}, as {other} does; left out')
      continue
    text = json.dumps([request, _state(path)], sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    jobs.append(Job(path, target / name, name, key))
  return jobs, failed


def _walk(source: Path, target: Path) -> Iterator[Path]:
  """Yields the files below a folder in order, without hidden ones and the outputs."""

  def refuse(error: OSError) -> None:
    raise error

  for folder, names, found in os.walk(source, onerror=refuse):
    is_output = lambda name, at=folder: (
      os.path.realpath(os.path.join(at, name)) == os.path.realpath(target)
    )
    names[:] = sorted(n for n in names if n[0] != '.' and not is_output(n))
    for name in sorted(found):
      if name[0] != '.' and os.path.isfile(os.path.join(folder, name)):
        yield Path(folder, name)


def _state(path: str | Path | None) -> list | None:
  """Returns the name, size and time of change of a file or run directory."""
  if path is None:
    return None
  try:
    status = os.stat(path)
  except OSError:
    return [str(path)]
  return [os.path.abspath(path), status.st_size, status.st_mtime_ns]


def _read_record(path: Path) -> dict[str, tuple[str, int]]:
  """Reads the key and the size of each file that earlier runs made, by name."""
  done = {}
  if path.exists():
    for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
      try:
        entry = json.loads(line)
        done[entry['name']] = entry['key'], entry['bytes']
      except (ValueError, KeyError, TypeError):
        continue  # the line in which a run was stopped
  return done


def _is_done(job: Job, done: dict[str, tuple[str, int]]) -> bool:
  """Tells whether an earlier run made this file, and it is still as long."""
  key, size = done.get(job.name, (None, 0))
  return key == job.key and job.output.is_file() and job.output.stat().st_size == size


def _remove_temporaries(target: Path) -> None:
  """Removes temporary files that a killed run left; the lock says that none is used."""
  for path in target.rglob(files.TEMPORARY + '?' * 8):
    path.unlink(missing_ok=True)
