"""The heat maps as a person uses them, in a real browser."""
import torch
from jupyter_lab import begin, run_cell

from lib.viz.heatmap import HeatMaps

MAPS = {"trained": torch.linspace(0, 1, 12).reshape(3, 4), "untrained": torch.linspace(1, 0, 12).reshape(3, 4)}


def test_the_pointer_and_the_arrows_move_in_all_panels(open_page, tmp_path, screenshots):
    page = open_page(HeatMaps(MAPS, [1, 2, 3], "abcd", axes=("block", "part")).to_html(tmp_path / "heat.html"))
    panel = page.locator(".heatmaps-map").first
    box = panel.bounding_box()
    panel.hover(position={"x": 0.6 * box["width"], "y": 0.1 * box["height"]})                   # third column, top row
    assert page.locator(".heatmaps-pair").text_content() == "block 3, part c"
    assert page.locator(".heatmaps-value").all_text_contents() == ["CKA 0.909", "CKA 0.091"]
    panel.focus()
    page.keyboard.press("ArrowDown"), page.keyboard.press("ArrowRight"), page.keyboard.press("ArrowRight")
    assert page.locator(".heatmaps-pair").text_content() == "block 2, part d"
    assert "trained: block 2, part d, CKA 0.636" == panel.get_attribute("aria-label")
    cell = page.locator(".heatmaps-cell").first.bounding_box()
    assert abs(cell["x"] - (box["x"] + 0.75 * box["width"])) < 2 and abs(cell["y"] - (box["y"] + box["height"] / 3)) < 2
    panel.click(position={"x": 0.1 * box["width"], "y": 0.9 * box["height"]})                    # kept; a visit is not
    panel.hover(position={"x": 0.9 * box["width"], "y": 0.1 * box["height"]})
    assert page.locator(".heatmaps-pair").text_content() == "block 3, part d"
    page.mouse.move(0, 0)
    assert page.locator(".heatmaps-pair").text_content() == "block 1, part a"
    assert "Upwards: block, 1 to 3; to the right: part, a to d" in page.locator(".heatmaps-help").text_content()
    page.screenshot(path=screenshots / "heatmaps.png")


CELLS = ["import torch\nfrom lib.viz.heatmap import HeatMaps\n"
         "heat = HeatMaps({'one': torch.arange(6.0).reshape(2, 3)}, [1, 2], [1, 2, 3], quantity='value')\nheat",
         "print('kept:', heat.row, heat.column, heat.under_pointer())", "heat.row, heat.column = 0, 0"]


def test_in_jupyterlab_python_and_the_page_see_each_other(open_lab):
    page = open_lab(CELLS)
    begin(page)
    page.wait_for_selector(".heatmaps[data-ready=yes]", timeout=120_000)
    page.locator(".heatmaps-map").focus()
    page.keyboard.press("ArrowUp"), page.keyboard.press("ArrowRight"), page.keyboard.press("ArrowRight")
    run_cell(page, 1, "kept: 1 2 {'one': 5.0}")
    run_cell(page, 2, "row 1, column 1")
