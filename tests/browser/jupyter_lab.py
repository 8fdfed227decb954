"""A JupyterLab from outside: ask its server, and run cells of the notebook that is open."""
import json
import time
import urllib.request


def ask(url: str, method: str = "GET"):
    request = urllib.request.Request(url, method=method, headers={"Authorization": "token trial"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or "null")


def run_cell(page, n, prints=None):
    """Run a cell of a notebook in JupyterLab; prints: wait until this is on the page."""
    page.locator(".jp-CodeCell .cm-content").nth(n).click()
    page.keyboard.press("Control+Enter")
    if prints:
        page.wait_for_selector(f"text={prints}", timeout=60_000)


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
