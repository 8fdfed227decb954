"""A real browser without a window, as far as one is installed: Debian's `chromium`, Chrome, or Playwright's own."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_lab import ask, wait_for_server


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


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A JupyterLab: (its folder, its address). It ends with the tests."""
    folder = tmp_path_factory.mktemp("lab")
    environment = os.environ | {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR",
                                                                      "JUPYTERLAB_SETTINGS_DIR")}
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0", "--ServerApp.port_retries=0",
             "--IdentityProvider.token=trial", f"--ServerApp.root_dir={folder}", "--ServerApp.use_redirect_file=False",
             "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
            cwd=folder, env=environment | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
    yield folder, wait_for_server(folder, server)
    server.terminate()
    server.wait(timeout=30)


@pytest.fixture
def open_lab(browser, lab, tmp_path):
    """open_lab(sources) -> a page of JupyterLab, on a new notebook with a code cell for each source, the first one in focus.

    The kernel works in tmp_path and ends with the test. Nothing may be complained about that is not JupyterLab's own.
    theme: "JupyterLab Dark", say.
    """
    (folder, address), contexts, complaints = lab, [], []
    themes = folder / "JUPYTERLAB_SETTINGS_DIR/@jupyterlab/apputils-extension/themes.jupyterlab-settings"

    def open_notebook(sources, theme="JupyterLab Light"):
        themes.parent.mkdir(parents=True, exist_ok=True)
        themes.write_text(json.dumps({"theme": theme}))
        first = f"import os; os.chdir({str(tmp_path)!r})\n"
        cells = [nbformat.v4.new_code_cell(source if n else first + source) for n, source in enumerate(sources)]
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}           # else Lab asks for one
        nbformat.write(notebook, folder / f"{tmp_path.name}.ipynb")
        context = browser.new_context(viewport={"width": 1300, "height": 1000})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{address}lab/workspaces/{tmp_path.name}/tree/{tmp_path.name}.ipynb?token=trial", timeout=120_000)
        page.locator(".jp-CodeCell .cm-content").first.click(timeout=120_000)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", state="attached", timeout=120_000)
        page.locator(".jp-CodeCell .cm-content").first.click()                     # a notebook drawn anew has lost the focus
        return page

    yield open_notebook
    for context in contexts:
        context.close()
    for session in ask(f"{address}api/sessions"):
        ask(f"{address}api/sessions/{session['id']}", "DELETE")
    assert complaints == []
