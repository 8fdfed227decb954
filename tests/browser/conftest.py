"""A real browser without a window, as far as one is installed: Debian's `chromium`, Chrome, or Playwright's own."""
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by Playwright. Skips, and says what to install, where one of the two is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    with playwright.sync_playwright() as run:
        if path is None and not os.path.exists(run.chromium.executable_path):
            pytest.skip("no Chromium is installed: apt install chromium, or playwright install chromium")
        opened = run.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def screenshots(tmp_path):
    """The folder that COURSE_SCREENSHOTS names, for a reviewer to open; without it, one that goes with the test."""
    folder = Path(os.environ.get("COURSE_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def open_page(browser):
    """open_page(path, width=..., ...) -> the page of an HTML file, in a browser without a network.

    At the end of the test nothing may have been asked for but the file itself, and nothing complained about.
    """
    contexts, complaints, requests = [], [], []

    def open_file(path, width=1100, height=800, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("[data-ready=yes]", timeout=20_000)
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert complaints == []
    assert all(url.startswith(("file:", "blob:", "data:")) for url in requests), requests


@pytest.fixture
def open_lab(browser, tmp_path):
    """open_lab(sources) -> a page of JupyterLab, on a new notebook with a code cell for each source, the first one in focus.

    The server ends with the test, and its kernels with it. Nothing may be complained about that is not JupyterLab's own.
    """
    started, contexts, complaints = [], [], []

    def open_notebook(sources):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}           # else Lab asks for one
        nbformat.write(notebook, tmp_path / "trial.ipynb")
        environment = os.environ | {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR",
                                                                            "JUPYTERLAB_SETTINGS_DIR")}
        with open(tmp_path / "server.log", "w") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0", "--ServerApp.port_retries=0",
                 "--IdentityProvider.token=trial", f"--ServerApp.root_dir={tmp_path}", "--ServerApp.use_redirect_file=False",
                 "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
                cwd=tmp_path, env=environment | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
        started.append(server)
        address = wait_for_server(tmp_path, server)
        context = browser.new_context(viewport={"width": 1300, "height": 1000})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{address}lab/tree/trial.ipynb?token=trial", timeout=120_000)
        page.locator(".jp-CodeCell .cm-content").first.click(timeout=120_000)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", state="attached", timeout=120_000)
        page.locator(".jp-CodeCell .cm-content").first.click()                     # a notebook drawn anew has lost the focus
        return page

    yield open_notebook
    for context in contexts:
        context.close()
    for server in started:
        server.terminate()
        server.wait(timeout=30)
    assert complaints == []


def wait_for_server(folder, server, seconds=120) -> str:
    """The address of a JupyterLab that was started, once it answers."""
    for _ in range(10 * seconds):
        for file in (folder / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json"):
            try:
                address = json.loads(file.read_text())["url"]
                with urllib.request.urlopen(f"{address}api/status?token=trial", timeout=5):
                    return address
            except (ValueError, OSError):
                pass
        assert server.poll() is None, (folder / "server.log").read_text()
        time.sleep(0.1)
    raise AssertionError((folder / "server.log").read_text())
