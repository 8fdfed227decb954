"""A widget as one page: no kernel, no network, no other file."""
import base64
import html
import json
import os
import tempfile
import zlib
from pathlib import Path

from lib.errors import CourseError

# The 85 digits of base64.b85encode, but for a comma in the place of "<", which might begin a tag.
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~"
TOO_OLD = ("This browser cannot unpack the page, which needs DecompressionStream: open it in Chrome or Edge 89, Firefox 113, "
           "Safari 16.4 or a later one.")

# The browser itself refuses everything that is not in the file.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 1rem; background: Canvas; color: CanvasText; }}
{style}
</style>
</head>
<body>
<main id="widget"></main>
<noscript>This page needs JavaScript.</noscript>
<script>
if (!window.DecompressionStream) document.getElementById("widget").textContent = "{too_old}";
</script>
<script type="module">
{code}

const state = {state};
const packed = {data};

const VALUES = new Map([..."{alphabet}"].map((character, value) => [character.charCodeAt(0), value]));

function binary(text) {{                           // five digits to the base of 85 are four bytes
  const bytes = new DataView(new ArrayBuffer(4 * Math.ceil(text.length / 5)));
  for (let place = 0; 5 * place < text.length; place++) {{
    let number = 0;
    for (let n = 5 * place; n < 5 * place + 5; n++) {{
      number = 85 * number + (n < text.length ? VALUES.get(text.charCodeAt(n)) : 84);
    }}
    bytes.setUint32(4 * place, number);
  }}
  return bytes.buffer.slice(0, Math.floor(4 * text.length / 5));
}}

async function unpack(text) {{                     // -> DataView, as a notebook hands it over
  const stream = new Blob([binary(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new DataView(await new Response(stream).arrayBuffer());
}}

if (!window.DecompressionStream) throw new Error("{too_old}");

for (const [name, parts] of Object.entries(packed)) {{
  state[name] = Array.isArray(parts) ? await Promise.all(parts.map(unpack)) : await unpack(parts);
}}
const model = {{                                  // stands for the kernel's side: keeps what is set
  get: name => state[name],
  set: (name, value) => {{ state[name] = value; }},
  save_changes() {{}}, send() {{}}, on() {{}}, off() {{}},
}};
widget.render({{ model, el: document.getElementById("widget") }});
</script>
</body>
</html>
"""


def write_page(path: str | Path, title: str, code: str, style: str, state: dict, data: dict[str, bytes | list[bytes]]) -> Path:
    """Write the page of a widget, whole or not at all, and return its path.

    code: an ES module that ends in `export default {...}`. state: values of traits, as JSON. data: traits that are bytes, or
    a list of bytes. Raises CourseError if the folder does not exist, or the file cannot be written.
    """
    if not isinstance(path, str | Path):
        raise CourseError(f"the page needs the path of a file, such as page.html, got a {type(path).__name__}")
    path = Path(path)
    if os.path.isdir(path) or not os.path.isdir(path.parent):      # false, not an error, for names that cannot be
        what = f"{path} is a folder; name a file in it"
        if not os.path.isdir(path):
            what = f"{path.parent} is not a folder; make it first"
        raise CourseError(f"{what}, or choose another place for the page")
    packed = {name: [_pack(part) for part in value] if isinstance(value, list) else _pack(value)
              for name, value in data.items()}
    page = PAGE.format(too_old=TOO_OLD, alphabet=ALPHABET, title=html.escape(title), style=style,
                       code=code.replace("export default", "const widget ="), state=_json(state), data=_json(packed))
    partial = None
    try:
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".page.")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(page)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException as error:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
        if isinstance(error, OSError | ValueError):                # a name that holds a 0 is a ValueError
            raise CourseError(f"{path} could not be written: {getattr(error, 'strerror', None) or error}") from None
        raise
    return path


def _pack(data: bytes) -> str:
    """Deflated, five characters for four bytes: a page is text, and base64 would take four characters for three.

    Not at zlib's level 9, which saves 1 % of a page and may take a hundred times as long.
    """
    return base64.b85encode(zlib.compress(data, 6)).decode().replace("<", ",")


def _json(value) -> str:
    """JSON that cannot end the script it stands in, whatever a label says."""
    return json.dumps(value).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
