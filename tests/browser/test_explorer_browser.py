"""The explorer as a person uses it, in a real browser: from a file, without network and kernel, and in JupyterLab."""
import base64
import io

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from lib.viz.explorer import AttentionExplorer

MAPS, STRIPS = ".explorer-map", ".explorer-overview"


def attention(layers, images, heads, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(layers, images, heads, tokens, tokens, generator=generator)).softmax(-1)


def pictures(count, size):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def explorer():
    maps = {"SimMIM": attention(4, 2, 3, 65, 0), "MoCo v3": attention(3, 2, 2, 65, 1)}
    return AttentionExplorer(pictures(2, 64), maps, (8, 8))


@pytest.fixture(scope="module")
def path(explorer, tmp_path_factory):
    return explorer.to_html(tmp_path_factory.mktemp("page") / "explorer.html")


@pytest.fixture
def page(open_page, path):
    return open_page(path)


def pixels(page, selector, n=0):
    """What is drawn on a canvas: uint8 (height, width, 4)."""
    url = page.locator(selector).nth(n).evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA"))


def point(page, row, column, n=0, click=False, cells=8):
    """Move the pointer to the middle of a patch of the n-th map, rows and columns from 0."""
    box = page.locator(MAPS).nth(n).bounding_box()
    place = box["x"] + (column + 0.5) / cells * box["width"], box["y"] + (row + 0.5) / cells * box["height"]
    page.mouse.move(*place)
    if click:
        page.mouse.click(*place)


def query(page):
    return int(page.locator(".explorer").get_attribute("data-query"))


def status(page):
    return page.locator("[role=status]").text_content()


def control(page, label):
    return page.get_by_label(label, exact=False).first


def test_a_pointer_move_redraws_every_model_and_leaving_brings_the_kept_query_back(page):
    before = [pixels(page, MAPS, n) for n in range(3)] + [pixels(page, STRIPS, n) for n in range(2)]
    point(page, 1, 6)
    after = [pixels(page, MAPS, n) for n in range(3)] + [pixels(page, STRIPS, n) for n in range(2)]
    assert query(page) == 14 and all((a != b).any() for a, b in zip(after, before))
    assert "row 5, column 5" in status(page)                                     # nothing is kept, and nothing read out
    page.mouse.move(1, 1)
    again = [pixels(page, MAPS, n) for n in range(3)]
    assert query(page) == 36 and all((a == b).all() for a, b in zip(again, before))


def test_any_panel_chooses_the_query_and_a_click_keeps_it(page):
    for n, (row, column) in enumerate([(0, 0), (7, 7), (3, 2)]):
        point(page, row, column, n, click=True)
        page.mouse.move(1, 1)
        assert query(page) == 8 * row + column
        assert f"Query row {row + 1}, column {column + 1}, layer 4, mean of heads." in status(page)


def test_arrow_keys_move_and_stop_at_the_edge_and_c_asks_cls(page):
    page.locator(MAPS).first.focus()
    page.keyboard.press("ArrowLeft"), page.keyboard.press("ArrowUp")
    assert query(page) == 27
    for _ in range(9):
        page.keyboard.press("ArrowLeft"), page.keyboard.press("ArrowDown")
    assert query(page) == 56
    page.keyboard.press("c")
    assert query(page) == -1 and "Query CLS" in status(page)
    assert page.get_by_role("button", name="CLS asks").get_attribute("aria-pressed") == "true"
    page.keyboard.press("ArrowRight")
    assert query(page) == 36


def test_colours_are_those_of_the_numbers_that_python_has(page, explorer):
    """With the overlay at full strength the middle of each patch has the cividis colour of its attention."""
    control(page, "Overlay").press("End")
    control(page, "Head").select_option("2")
    page.locator(MAPS).first.focus()
    page.keyboard.press("c")
    explorer.head, explorer.query = 2, -1
    try:
        for n, label in enumerate(("SimMIM", "MoCo v3")):
            drawn, values = pixels(page, MAPS, n + 1), explorer.map(label)
            expected = matplotlib.colormaps["cividis"](values / values.max())[..., :3] * 255
            step = len(drawn) // 8
            middle = drawn[step // 2::step, step // 2::step, :3]
            assert np.abs(middle - expected).max() < 12          # of 255: the page interpolates 16 stops
            legend = page.locator(".explorer-legend output").nth(n).text_content()
            assert float(legend.split()[0]) == pytest.approx(100 * values.max(), abs=0.6)
    finally:
        explorer.head, explorer.query = "mean", 36


def test_a_click_into_the_strip_of_all_heads_shows_that_head_and_its_numbers(page, explorer):
    strip = page.locator(STRIPS).first
    box = strip.bounding_box()
    strip.click(position={"x": 2.5 / 4 * box["width"], "y": 1.5 / 3 * box["height"]})            # layer 3, head 2
    explorer.layer, explorer.head = 3, 2
    try:
        for n, (label, heads) in enumerate({"SimMIM": 12, "MoCo v3": 6}.items()):
            text, found = page.locator(".explorer-numbers").nth(n).inner_text(), explorer.statistics(label)
            assert "Layer 3, head 2" in text
            assert f"{found['distance'][0]:.1f} px" in text and f"{found['distance'][1]} of {heads}" in text
            assert f"{found['entropy'][0]:.2f} nats" in text and f"{found['nmi'][0]:.3f}" in text
    finally:
        explorer.layer, explorer.head = 4, "mean"
    strip.press("ArrowRight"), strip.press("ArrowDown")
    assert "layer 4, head 3" in status(page)
    assert "Layer 3, head 2" in page.locator(".explorer-numbers").nth(1).inner_text()            # it has no more: its last
    assert control(page, "Layer").input_value() == "4" and control(page, "Head").input_value() == "3"


def test_all_heads_as_a_grid_and_one_scale_for_all(page):
    legends = page.locator(".explorer-legend output")
    single = pixels(page, MAPS, 1)
    control(page, "Head").select_option("all")
    assert (pixels(page, MAPS, 1) != single).any() and legends.all_text_contents() == ["own brightest"] * 2
    point(page, 9, 3, 1, cells=16)                                               # in the second row of cells: head 3
    assert query(page) == 8 * 1 + 3
    control(page, "Colours").select_option("shared")
    assert len(set(legends.all_text_contents())) == 1 and "%" in legends.first.text_content()
    control(page, "Head").select_option("mean")
    assert len(set(legends.all_text_contents())) == 1


def test_other_images_and_layers(page):
    drawn = pixels(page, MAPS, 0), pixels(page, MAPS, 1)
    control(page, "Image").select_option("1")
    assert all((pixels(page, MAPS, n) != drawn[n]).any() for n in range(2))
    drawn = pixels(page, MAPS, 1)
    control(page, "Layer").press("Home")
    assert "layer 1," in status(page) and (pixels(page, MAPS, 1) != drawn).any()


def test_the_keyboard_reaches_everything_and_shows_where_it_is(page):
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("""() => {
            const node = document.activeElement, style = getComputedStyle(node);
            const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
            return [node.className || node.tagName, outlined]; }"""))
    assert [name for name, _ in reached] == ["SELECT", "INPUT", "SELECT", "BUTTON", "INPUT", "SELECT", "explorer-map",
                                             "explorer-overview"]
    assert all(visible for _, visible in reached)


def test_everything_has_a_name(page):
    assert page.locator(".explorer").get_attribute("aria-label") == "Attention explorer"
    for name in ("Image", "Layer", "Head", "Overlay", "Colours"):
        assert control(page, name).is_visible()
    for canvas in page.locator(".explorer canvas").all():
        assert len(canvas.get_attribute("aria-label")) > 30 and canvas.get_attribute("role") == "application"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(open_page, path, scheme):
    page = open_page(path, color_scheme=scheme)
    contrast = page.evaluate("""() => {
        const lightness = color => { const probe = document.createElement("canvas").getContext("2d");
            probe.fillStyle = color; probe.fillRect(0, 0, 1, 1);
            const parts = [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3).map(c => c / 255)
                .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]; };
        const ground = lightness(getComputedStyle(document.body).backgroundColor);
        return [".explorer-help", ".explorer-outside", "figcaption", ".explorer-numbers td", "select"].map(selector => {
            const ink = lightness(getComputedStyle(document.querySelector(selector)).color);
            return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05); }); }""")
    assert min(contrast) >= 4.5                                                  # WCAG 2, level AA


@pytest.mark.parametrize("width", [320, 480, 560, 800])
def test_nothing_is_cut_off_on_a_small_screen(open_page, path, width, screenshots):
    page = open_page(path, width=width)
    control(page, "Head").select_option("2")
    assert all(table.evaluate("t => t.scrollWidth <= t.parentElement.clientWidth + 1") for table in
               page.locator(".explorer-numbers").all())
    page.screenshot(path=screenshots / f"explorer-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    point(page, 2, 3, 1, click=True)
    assert query(page) == 19


def test_a_redraw_fits_into_a_frame_with_two_large_models(open_page, tmp_path, record_property):
    """Two models of 12 layers, 12 heads and 197 tokens: 95 of 100 pointer moves are drawn in under 8 ms, on a quiet machine."""
    maps = {name: attention(12, 1, 12, 197, seed) for seed, name in enumerate("ab")}
    explorer = AttentionExplorer(pictures(1, 224), maps, (14, 14))
    page = open_page(explorer.to_html(tmp_path / "large.html"))
    measured = {}
    for head in ("mean", "all"):
        control(page, "Head").select_option(head)
        rounds = page.locator(MAPS).nth(1).evaluate("""async node => {
            const box = node.getBoundingClientRect(), rounds = [];
            for (let round = 0; round < 2; round++) {
                const times = [];
                for (let n = 0; n < 100; n++) {
                    await new Promise(requestAnimationFrame);
                    const x = box.left + (n * 37 % 101) / 101 * box.width, y = box.top + (n * 53 % 89) / 89 * box.height;
                    const start = performance.now();
                    node.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y }));
                    times.push(performance.now() - start);
                }
                rounds.push(times.sort((a, b) => a - b));
            }
            return rounds; }""")
        measured[head] = min(times[94] for times in rounds)                     # a busy machine spoils a round, not all
        record_property(f"redraw_ms_{head}", measured[head])
    print("95th percentile of a redraw in ms:", {head: round(ms, 2) for head, ms in measured.items()})
    assert max(measured.values()) < 40                             # a busy machine may be five times slower


# ---------------------------------------------------------------------------------------------------------- JupyterLab

CELLS = [
    "import torch\nfrom lib.viz.explorer import AttentionExplorer\n"
    "maps = torch.randn(2, 2, 3, 65, 65, generator=torch.Generator().manual_seed(0)).softmax(-1)\n"
    "images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)\n"
    "explorer = AttentionExplorer(images, {'SimMIM': maps, 'MoCo v3': maps}, (8, 8))\nexplorer",
    "print('kept:', explorer.query, explorer.layer, explorer.head)",
    "explorer.query, explorer.layer, explorer.head = -1, 1, 'all'",
    "import time; time.sleep(10)",
]


def test_in_jupyterlab_python_and_the_page_see_each_other(open_lab, screenshots):
    page = open_lab(CELLS)
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector(".explorer[data-ready=yes]", timeout=120_000)
    assert query(page) == 36
    point(page, 1, 2, 1, click=True)
    strip = page.locator(STRIPS).first
    box = strip.bounding_box()
    strip.click(position={"x": 0.25 * box["width"], "y": 0.5 * box["height"]})                   # layer 1, head 2
    page.locator(MAPS).first.focus()
    page.keyboard.press("ArrowRight"), page.keyboard.press("ArrowRight")         # JupyterLab would move to another cell
    assert query(page) == 12

    run_cell(page, 1)
    page.wait_for_selector("text=kept: 12 1 2", timeout=60_000)
    run_cell(page, 2)
    page.wait_for_selector(".explorer[data-query='-1']", timeout=60_000)
    assert "Query CLS, layer 1, all heads" in status(page)

    run_cell(page, 3)                                                            # the kernel is busy: nothing waits for it
    page.locator(MAPS).first.scroll_into_view_if_needed()
    point(page, 5, 5)
    assert query(page) == 45
    page.screenshot(path=screenshots / "explorer-lab.png")
    assert page.locator(".jp-CodeCell").nth(3).locator(".jp-InputPrompt").text_content() == "[*]:"


def run_cell(page, n):
    page.locator(".jp-CodeCell .cm-content").nth(n).click()
    page.keyboard.press("Control+Enter")
