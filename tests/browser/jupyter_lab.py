"""A JupyterLab from outside: ask its server, and run cells of the notebook that is open."""
import json
import re
import time
import urllib.request


def ask(url: str, method: str = "GET"):
    request = urllib.request.Request(url, method=method, headers={"Authorization": "token trial"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or "null")


def begin(page, cells=1):
    """Run the first cells of a notebook that has just been opened. One that is drawn anew may lose the focus, and the keys."""
    started = page.locator(".jp-CodeCell .jp-InputPrompt").first.filter(has_text=re.compile(r"[*\d]"))
    for _ in range(10):
        page.locator(".jp-CodeCell .cm-content").first.click()
        for _ in range(cells):
            page.keyboard.press("Shift+Enter")
        for _ in range(60):
            if started.count():
                return
            page.wait_for_timeout(50)
    raise AssertionError("no cell has started")


def run_cell(page, n, prints=None):
    """Run a cell of a notebook in JupyterLab.

    prints: wait until this is on the page, and run the cell again where it is not: a widget sends its next change only when
    the kernel has answered the one before, so that a cell that is run at once may still see the older value.
    """
    for _ in range(6):
        page.locator(".jp-CodeCell .cm-content").nth(n).click()
        page.keyboard.press("Control+Enter")
        if not prints or shown_within(page, prints, 10):
            return
    raise AssertionError(f"cell {n} was run six times, and {prints!r} is not on the page")


def shown_within(page, text: str, seconds: int) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if page.locator(f"text={text}").first.is_visible():
            return True
        page.wait_for_timeout(50)
    return False


def wait_for_server(folder, server, seconds=120) -> str:
    """The address of a JupyterLab that was started, once it answers."""
    for _ in range(10 * seconds):
        for file in (folder / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json"):
            try:
                address = json.loads(file.read_text())["url"]
                ask(f"{address}api/status")
            except (ValueError, OSError):
                continue
            return address
        assert server.poll() is None, (folder / "server.log").read_text()
        time.sleep(0.1)
    raise AssertionError((folder / "server.log").read_text())
