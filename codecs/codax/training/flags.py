"""The command line of ``launch/train.py``: a configuration file and overrides of it.

absl and ml_collections do the parsing; this module turns their exceptions into one line
that names the flag or key and the valid ones.
"""

import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from codax import console
from codax.config import blame_file
from codax.data import defaults
from codax.errors import CodaxError, renamed, unknown
from codax.training import settings

HELP = """usage: python launch/train.py --config=FILE[:ARG] [--workdir=DIR]
                              [--distributed] [--config.KEY=VALUE ...]

  --config=FILE[:ARG]   configuration, for example configs/vqvae_ba.py:cifar10
  --config.KEY=VALUE    changes one of its keys, for example --config.total_steps=100
  --workdir=DIR         where the run lives (default: runs/<config name>[_ARG])
  --distributed         join the other hosts first (started once per host)
  --help                this text, and with --config=FILE every key with its value
"""

RENAMED = settings.RENAMED | {
  f'data.{old}': f'data.{new}' for old, new in defaults.RENAMED.items()
}


class Arguments(NamedTuple):
  """Parsed command line.

  Attributes:
    config: locked `ConfigDict`.
    workdir: folder of the run.
    distributed: True to join other hosts.
    text: command as one line, stored with the results.
  """

  config: Any
  workdir: Path
  distributed: bool
  text: str


def parse(argv: list[str]) -> Arguments | None:
  """Parses ``sys.argv``.

  Args:
    argv: name of the program and its arguments.

  Returns:
    The arguments; None if only help was asked for (and printed).

  Raises:
    CodaxError: an unknown flag or key, a value of the wrong type, no such file, or
      an error in the file, with its place.
  """
  helps = [a for a in argv[1:] if a in ('--help', '-help', '-h')]
  argv = [_expand_home(a) for a in argv if a not in helps]
  if helps:
    console.show(HELP.rstrip())
    if any(_is_file(a) for a in argv):
      _show_keys(_parse(argv).config)
    return None
  values = _parse(argv)
  if values.config is None:
    raise CodaxError('--config=FILE is missing, for example configs/vqvae_ba.py')
  path, _, argument = values['config'].config_filename.partition(':')
  name = Path(path).stem + (f'_{argument}' if argument else '')
  workdir = values.workdir or Path('runs') / re.sub(r'[^\w.=-]+', '_', name)
  # Checkpoints need names of UTF-8; `workdirs.check_place` refuses others.
  if sys.getfilesystemencoding() != 'utf-8' and not str(workdir).isascii():
    raise CodaxError(
      f'--workdir={str(workdir)!a}: the name is not text here; set PYTHONUTF8=1'
    )
  text = ' '.join(['python launch/train.py', *argv[1:]])
  return Arguments(values.config, Path(workdir).expanduser(), values.distributed, text)


def set_up_logging() -> None:
  """Sends absl's INFO lines to stderr, without those of libraries for themselves."""
  flags.FLAGS.mark_as_parsed()  # this program's flags are not global ones
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().addFilter(_is_for_users)


def _is_for_users(record: Any) -> bool:
  """Returns False for records that libraries write for themselves.

  JAX tells at INFO which kinds of accelerator it does not find, as if that were an
  error. Orbax raises the errors that it logs: a disk that fills up would be pages of
  tracebacks around the one line that says so.
  """
  path = record.pathname.replace('\\', '/')
  if record.name == 'asyncio' or ('/jax/' in path and record.levelname == 'INFO'):
    return False
  return record.levelname == 'WARNING' or '/orbax/' not in path


def _define(argv: list[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config', None, 'Configuration.', flag_values=values, sys_argv=argv
  )
  flags.DEFINE_string('workdir', None, 'Where the run lives.', flag_values=values)
  flags.DEFINE_bool('distributed', False, 'Join other hosts.', flag_values=values)
  return values


def _is_file(argument: str) -> bool:
  """Tells whether an argument names the configuration file."""
  return re.match(r'--?config(=|$)', argument) is not None


def _expand_home(argument: str) -> str:
  """Expands ``~`` behind ``--config=``, which shells leave as it is."""
  name, _, path = argument.partition('=')
  is_path = path.startswith('~') and _is_file(argument)
  return f'{name}={os.path.expanduser(path)}' if is_path else argument


def _show_keys(config: Any) -> None:
  """Prints every key that can be changed, with its value."""
  console.show('\nkeys of this configuration and their values:\n')
  for key, value in _list_keys(config).items():
    console.show(f'  --config.{key}={value}')


def _parse(argv: list[str]) -> flags.FlagValues:
  """Returns the flags' values, or a `CodaxError`."""
  path = _find_file(argv)
  try:
    values, rest = _read(argv)
  except (Exception, SystemExit) as e:
    raise _explain(argv, path, e) from e
  if path is not None:
    _check_kind(path, values.config)
  if len(rest) > 1:
    raise CodaxError(f'unexpected argument {rest[1]!r}; flags begin with --')
  return values


def _read(argv: list[str]) -> tuple[flags.FlagValues, list[str]]:
  """Returns the flags' values and the arguments that are no flags."""
  values = _define(argv)
  with warnings.catch_warnings():  # of the parser's own way to load a file
    warnings.simplefilter('ignore', DeprecationWarning)
    return values, values(argv)


def _find_file(argv: list[str]) -> str | None:
  """Returns the path of the configuration file; None if none is named.

  Raises:
    CodaxError: there is no such file.
  """
  paths = [a.split('=', 1)[1] for a in argv if _is_file(a) and '=' in a]
  paths += [b for a, b in zip(argv, argv[1:]) if a in ('-config', '--config')]
  for text in paths:
    path = text.split(':', 1)[0]
    if Path(path).is_dir():
      raise CodaxError(f'{path or "."} is a directory, not a configuration file')
    if not Path(path).is_file():
      names = (p.as_posix() for p in Path(path).parent.glob('*.py') if p.is_file())
      if near := sorted(names):
        raise unknown('configuration file', path, near)
      raise CodaxError(f'no such configuration file: {path}')
  return paths[-1].split(':', 1)[0] if paths else None


def _explain(argv: list[str], path: str | None, error: BaseException) -> CodaxError:
  """Returns the error in one line: of the configuration file, or of an argument."""
  if path is not None:
    before = ['', *argv]
    named = [
      a for a, b in zip(argv, before) if _is_file(a) or b in ('-config', '--config')
    ]
    try:
      config = _read([argv[0], *named])[0].config
    except (Exception, SystemExit) as e:
      return blame_file(path, e, 'get_config')
    _check_kind(path, config)
    if isinstance(error, AttributeError | KeyError):
      return _unknown_key(argv, config) or CodaxError(str(error))
  text = ' '.join(str(error).split())
  kinds = {'literal for int': 'a whole number', 'to float': 'a number'}
  valid = next((kind for words, kind in kinds.items() if words in text), None)
  return CodaxError(text + (f'; valid: {valid}' if valid else ''))


def _check_kind(path: str, config: Any) -> None:
  """Raises `CodaxError` unless a file returned a configuration."""
  if not isinstance(config, ConfigDict):
    kind = type(config).__name__
    raise CodaxError(
      f'{path}: get_config() must return an ml_collections.ConfigDict, not {kind}'
    )


def _unknown_key(argv: list[str], config: Any) -> CodaxError | None:
  """Returns the error for an override of a key that the configuration does not have."""
  valid = _list_keys(config)
  for argument in argv:
    match = re.match(r'--?(?:no)?config\.([^=]*)', argument)
    if match and match[1] not in valid:
      key = match[1]
      new = _collect_renamed(config).get(key)
      if new:
        return renamed(key, new)
      return unknown('config key', key, valid, listing='--help after --config=FILE')
  return None


def _collect_renamed(config: Any) -> dict[str, str]:
  """Collects new names of renamed keys: those of all families and of this one."""
  from codax import families

  owner = families.FAMILIES.get(config.get('family'))
  if owner is None or 'defaults' not in owner.entries:
    return RENAMED
  return RENAMED | families.entry(owner, 'defaults').RENAMED


def _list_keys(config: Any, prefix: str = '') -> dict[str, Any]:
  """Returns every key that can be set, 'a.b.c', and its value."""
  out = {}
  for key, value in config.items():
    out[prefix + key] = value
    if hasattr(value, 'items'):
      out[prefix + key] = '{...}'
      out |= _list_keys(value, f'{prefix}{key}.')
  return out
