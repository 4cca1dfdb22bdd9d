"""A page that shows an image and its files under a slider, in one HTML file.

The page holds all that it shows: it opens without a network and loads nothing.
"""

import base64
import html
import json
import math
from collections.abc import Sequence
from typing import NamedTuple


class Entry(NamedTuple):
  """One file of an image.

  Attributes:
    label: name of the codec.
    bytes: size of the file.
    bpp: bits per pixel of the file.
    psnr: dB; infinite for equal images.
    png: decoded image as a PNG file.
  """

  label: str
  bytes: int
  bpp: float
  psnr: float
  png: bytes


_STYLE = """
body { font: 16px/1.4 sans-serif; margin: 1rem auto; max-width: 80rem; padding: 0 1rem;
  background: #fff; color: #111; }
#stage { position: relative; width: fit-content; max-width: 100%; line-height: 0; }
#stage img { max-width: 100%; }
#right { position: absolute; inset: 0; width: 100%; height: 100%; }
#line { position: absolute; top: 0; bottom: 0; width: 2px; background: #fff;
  outline: 1px solid #000; pointer-events: none; }
#at { width: 100%; margin: .5rem 0; }
:focus-visible { outline: 3px solid #06c; outline-offset: 2px; }
table { border-collapse: collapse; margin-top: 1rem; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ccc; }
th:first-child { text-align: left; }
label { margin-right: 1.5rem; }
"""
_SCRIPT = """
const get = id => document.getElementById(id);
const texts = JSON.parse(get('texts').textContent);
function show() {
  const at = get('at').value;
  get('right').style.clipPath = `inset(0 0 0 ${at}%)`;
  get('line').style.left = `calc(${at}% - 1px)`;
  for (const side of ['left', 'right']) {
    const chosen = get('choose-' + side).value;
    const source = get('image-' + chosen).src;
    if (get(side).src !== source) get(side).src = source;
    get(side).alt = texts[chosen];
  }
}
for (const id of ['at', 'choose-left', 'choose-right']) {
  get(id).addEventListener('input', show);
}
show();
"""


def make_page(name: str, original: bytes, entries: Sequence[Entry]) -> str:
  """Makes the page.

  Args:
    name: name of the image.
    original: the image as a PNG file.
    entries: one file or more; the first is shown beside the second, if there is one.

  Returns:
    HTML without a reference to anything outside of it.
  """
  texts = ['original', *map(describe, entries)]
  images = [_to_uri(original), *(_to_uri(one.png) for one in entries)]
  title = html.escape(f'{name}: {len(entries)} files beside the original')
  sources = '\n'.join(
    f'<img id="image-{i}" src="{uri}" alt="{html.escape(text)}" hidden>'
    for i, (uri, text) in enumerate(zip(images, texts, strict=True))
  )
  right = 2 if len(entries) > 1 else 0
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p>
<label>Left: {_list_choices('left', texts, 1)}</label>
<label>Right: {_list_choices('right', texts, right)}</label>
</p>
<div id="stage">
<img id="left" src="{images[1]}" alt="{html.escape(texts[1])}">
<img id="right" src="{images[right]}" alt="{html.escape(texts[right])}">
<div id="line"></div>
</div>
<input id="at" type="range" min="0" max="100" step="0.5" value="50"
 aria-label="Border between left and right, in percent of the width">
{_make_table(entries)}
<div hidden>
{sources}
</div>
<script type="application/json" id="texts">{_to_script(texts)}</script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def describe(entry: Entry) -> str:
  """Describes a file in one line: codec, bytes, bits per pixel and PSNR."""
  psnr = _format_psnr(entry.psnr)
  return f'{entry.label}: {entry.bytes} bytes, {entry.bpp:.4f} bpp, PSNR {psnr} dB'


def _format_psnr(psnr: float) -> str:
  """Formats a PSNR in dB."""
  return f'{psnr:.2f}' if math.isfinite(psnr) else '∞'


def _list_choices(side: str, texts: Sequence[str], chosen: int) -> str:
  """Makes the list from which the image of a side is chosen."""
  options = ''.join(
    f'<option value="{i}"{" selected" if i == chosen else ""}>{html.escape(text)}'
    '</option>'
    for i, text in enumerate(texts)
  )
  return f'<select id="choose-{side}" autocomplete="off">{options}</select>'


def _make_table(entries: Sequence[Entry]) -> str:
  """Makes the table of all files."""
  rows = '\n'.join(
    f'<tr><th scope="row">{html.escape(one.label)}</th><td>{one.bytes}</td>'
    f'<td>{one.bpp:.4f}</td><td>{_format_psnr(one.psnr)}</td></tr>'
    for one in entries
  )
  heads = ''.join(
    f'<th scope="col">{text}</th>' for text in ('codec', 'bytes', 'bpp', 'PSNR, dB')
  )
  return f'<table>\n<tr>{heads}</tr>\n{rows}\n</table>'


def _to_script(texts: Sequence[str]) -> str:
  """Formats texts as JSON that cannot end the element around it."""
  return json.dumps(list(texts)).replace('<', '\\u003c')


def _to_uri(png: bytes) -> str:
  """Formats a PNG file as a data URI."""
  return f'data:image/png;base64,{base64.b64encode(png).decode()}'
