"""The widgets of the chapters, where they stand: the chapter's own cells in a real JupyterLab, used with mouse and keyboard.

Of a chapter those cells run that its widget needs; that every cell runs is what nbval tests.
"""
import ast
import re
from pathlib import Path

import nbformat
import pytest
from jupyter_lab import begin, run_cell

CHAPTERS = Path(__file__).parents[2] / "chapters"


def names(source: str) -> tuple[set[str], set[str]]:
    """What a cell makes, and what it uses."""
    made, used = set(), set()
    for node in ast.walk(ast.parse(re.sub(r"(?m)^[%!].*$", "", source))):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.FunctionDef):
            made.add(node.name)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).split(".")[0])
    return made, used


def cells_for(number: str, widget: str) -> list[str]:
    """The sources of the cell of a chapter with a line that begins with `widget`, and, before it, of those that it needs."""
    path, = CHAPTERS.glob(f"{number}_*.ipynb")
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    last = next(n for n, source in enumerate(sources) if any(line.startswith(widget) for line in source.splitlines()))
    keep, needed = [sources[last]], names(sources[last])[1]
    for n in range(last - 1, -1, -1):
        made, used = names(sources[n])
        if n == 0 or made & needed:
            keep, needed = [sources[n], *keep], needed | used
    return keep


@pytest.fixture
def open_widget(open_lab, screenshots):
    """open_widget("05", "explore(", ".explorer") -> the page, once the widget is there, and a function that asks Python.

    The widget is called `it` there: ask("it.query") gives what Python prints of it.
    """
    def open_chapter(number, widget, node):
        cells = cells_for(number, widget)
        page = open_lab([*cells, "it = Out[max(Out)] if Out else None", "print('says', repr(eval(input())))"])
        begin(page, len(cells) + 1)
        page.wait_for_selector(node, timeout=300_000)
        page.locator(node).first.scroll_into_view_if_needed()

        def ask(expression):
            run_cell(page, len(cells) + 1)
            page.locator(".jp-Stdin-input").fill(expression, timeout=120_000)
            page.locator(".jp-Stdin-input").press("Enter")
            page.wait_for_selector(".jp-Stdin-input", state="detached", timeout=60_000)
            return page.locator(".jp-CodeCell").nth(len(cells) + 1).locator(".jp-OutputArea-output pre").last.text_content()

        return page, ask

    return open_chapter


def test_02_a_view_that_learners_turn(open_widget, screenshots):
    page, ask = open_widget("02", "Frames(", ".frames[data-ready=yes]")
    before = page.locator(".frames-caption").text_content()
    page.get_by_role("slider", name="colour jitter").press("End")
    assert page.locator(".frames-caption").text_content() != before
    page.locator(".frames").screenshot(path=screenshots / "chapter-02.png")
    assert ask("it.setting['colour jitter']") == "says 'MoCo v3'\n"


def test_02_a_run_that_learners_watch(open_widget):
    page, ask = open_widget("02", "monitor = Monitor(", ".monitor")
    page.wait_for_selector(".monitor[data-state=done]", timeout=300_000)
    assert page.locator(".monitor-stage svg").count() == 1                                  # the loss; k-NN is not asked for
    assert ask("it.state") == "says 'done'\n"


def test_03_masks_that_learners_choose_and_draw(open_widget, screenshots):
    page, ask = open_widget("03", "Frames(", ".frames[data-ready=yes]")
    page.get_by_role("slider", name="mask ratio").press("End")
    assert page.locator(".frames-caption").text_content().startswith("75% of the patches are hidden")
    assert ask("it.setting['mask ratio']") == "says '75 %'\n"


def test_03_a_mask_that_learners_draw(open_widget, screenshots):
    page, ask = open_widget("03", 'Reconstruction(few, "simmim")', ".reconstruction[data-ready=yes]")
    before = int(ask("int(it.mask.sum())").split()[1])
    page.locator(".reconstruction canvas").nth(1).focus()
    page.keyboard.press("Space")
    page.wait_for_function("n => !document.querySelector('.reconstruction [role=status]').textContent.startsWith(n + ' of')",
                           arg=before, timeout=60_000)
    page.wait_for_selector(".reconstruction[data-late=no]", timeout=120_000)
    page.locator(".reconstruction").screenshot(path=screenshots / "chapter-03.png")
    assert abs(int(ask("int(it.mask.sum())").split()[1]) - before) == 1


def test_05_where_networks_look(open_widget, screenshots):
    page, ask = open_widget("05", "explore(", ".explorer[data-ready=yes]")
    maps = page.locator(".explorer-map")
    assert maps.count() == 4                                                                # the image and three networks
    maps.nth(2).hover(position={"x": 20, "y": 20})
    page.wait_for_selector(".explorer[data-query='0'], .explorer[data-query='1'], .explorer[data-query='9']")
    maps.nth(1).click(position={"x": 5, "y": 5})
    maps.nth(1).press("ArrowRight")
    page.get_by_label("Layer").first.press("End")
    assert ask("(it.query, it.layer)") == "says (1, 12)\n"
    page.get_by_label("Image").first.select_option("1")
    page.locator(".explorer").screenshot(path=screenshots / "chapter-05.png")
    assert ask("it.image") == "says 1\n"


def test_07_noise_that_learners_move(open_widget, screenshots):
    moves_pictures(open_widget("07", "slide(", ".widget-slider")[0], screenshots / "chapter-07.png")


def test_11_a_weight_that_learners_move(open_widget, screenshots):
    moves_pictures(open_widget("11", "slide(", ".widget-slider")[0], screenshots / "chapter-11.png")


def moves_pictures(page, screenshot):
    """The slider shows another picture, which comes from the kernel."""
    source = page.locator("img.widget-image").get_attribute("src")
    page.get_by_role("slider").press("Home")
    page.wait_for_function("before => document.querySelector('img.widget-image').src !== before", arg=source, timeout=60_000)
    page.locator("img.widget-image").screenshot(path=screenshot)


@pytest.mark.parametrize("number, panels", [("09", 2), ("10", 4)])
def test_two_layers_that_learners_compare(number, panels, open_widget, screenshots):
    page, ask = open_widget(number, "HeatMaps(", ".heatmaps[data-ready=yes]")
    assert page.locator(".heatmaps-map").count() == panels
    page.locator(".heatmaps-map").first.focus()
    page.keyboard.press("ArrowUp"), page.keyboard.press("ArrowRight")
    pair = page.locator(".heatmaps-pair").text_content()
    page.locator(".heatmaps").screenshot(path=screenshots / f"chapter-{number}.png")
    row, column = ast.literal_eval(ask("(it.meta['rows'][it.row], it.meta['columns'][it.column])").removeprefix("says "))
    assert pair == "{0} {2}, {1} {3}".format(*ast.literal_eval(ask("it.meta['axes']").removeprefix("says ")), row, column)
