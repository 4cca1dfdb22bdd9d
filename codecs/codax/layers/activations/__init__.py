"""Stub until the library of activations is merged."""

from typing import Any, Callable, NamedTuple


class Activation(NamedTuple):
  name: str
  expansion: int
  init: Callable[[int], Any]
  apply: Callable[..., Any]


def get(name: str) -> Activation:
  return Activation('relu', 1, lambda c: {}, lambda p, x, xp: xp.maximum(x, 0))
