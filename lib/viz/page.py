"""A widget as one page: no kernel, no network, no other file."""
import base64
import html
import json
import os
import tempfile
import zlib
from pathlib import Path

from lib.errors import CourseError

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
<script type="module">
{code}

const state = {state};
const packed = {data};

async function unpack(text) {{                    // base64 of deflated bytes -> DataView, as a notebook hands it over
  const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new DataView(await new Response(stream).arrayBuffer());
}}

for (const [name, parts] of Object.entries(packed)) {{
  state[name] = Array.isArray(parts) ? await Promise.all(parts.map(unpack)) : await unpack(parts);
}}
const model = {{                                  // stands for the kernel's side: keeps what is set
  get: name => state[name],
  set: (name, value) => {{ state[name] = value; }},
  save_changes() {{}}, on() {{}}, off() {{}},
}};
widget.render({{ model, el: document.getElementById("widget") }});
</script>
</body>
</html>
"""


def write_page(path: str | Path, title: str, code: str, style: str, state: dict, data: dict[str, bytes | list[bytes]]) -> Path:
    """Write the page of a widget, whole or not at all, and return its path.

    code: an ES module that ends in `export default {...}`. state: values of traits, as JSON. data: traits that are bytes, or
    a list of bytes. Raises CourseError if the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise CourseError(f"{path.parent} is not a folder; make it first, or choose another place for {path.name}")
    packed = {name: [_pack(part) for part in value] if isinstance(value, list) else _pack(value)
              for name, value in data.items()}
    page = PAGE.format(title=html.escape(title), style=style, code=code.replace("export default", "const widget ="),
                       state=_json(state), data=_json(packed))
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(page)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return path


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _json(value) -> str:
    """JSON that cannot end the script it stands in, whatever a label says."""
    return json.dumps(value).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
