"""The explorer as a person uses it, in a real browser: from a file, without network and kernel, and in JupyterLab."""
import base64
import io

import matplotlib
import numpy as np
import pytest
import torch
from jupyter_lab import begin, run_cell
from PIL import Image

from lib.analysis.rollout import token_cosines
from lib.viz.explorer import AttentionExplorer
from lib.viz.page import TOO_OLD

MAPS, STRIPS = ".explorer-map", ".explorer-overview"


def attention(layers, images, heads, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(layers, images, heads, tokens, tokens, generator=generator)).softmax(-1)


def pictures(count, size):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def explorer():
    maps = {"SimMIM": attention(4, 2, 3, 65, 0), "MoCo v3": attention(3, 2, 2, 65, 1)}
    cosines = {label: token_cosines(torch.randn(len(each), 2, 65, 4, generator=torch.Generator().manual_seed(2)))
               for label, each in maps.items()}
    return AttentionExplorer(pictures(2, 64), maps, (8, 8), cosines=cosines)


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
    return page.locator(".explorer").get_by_label(label, exact=False).first


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
            assert np.abs(middle - expected).max() < 22          # of 255: the page has 33 steps and 16 stops of colour
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


@pytest.mark.parametrize("view, scale", [("rollout", "own"), ("similarity", "own"), ("similarity", "shared")])
def test_other_views_show_what_python_has_and_have_no_heads(page, explorer, view, scale):
    control(page, "View").focus()
    page.keyboard.press("ArrowDown")
    if view == "similarity":
        page.keyboard.press("ArrowDown")
    control(page, "Colours").select_option(scale)
    control(page, "Overlay").press("End")
    control(page, "Layer").press("Home"), control(page, "Layer").press("ArrowRight")
    explorer.view, explorer.layer = view, 2
    try:
        maps = [explorer.map(label) for label in ("SimMIM", "MoCo v3")]
        for n, values in enumerate(maps):
            drawn, ends = pixels(page, MAPS, n + 1), maps if scale == "shared" else [values]
            low, high = min(each.min() for each in ends) if view == "similarity" else 0, max(each.max() for each in ends)
            expected = matplotlib.colormaps["cividis"]((values - low) / (high - low))[..., :3] * 255
            step = len(drawn) // 8                                               # left of the middle: clear of the mark
            assert np.abs(drawn[step // 2::step, step // 2::step, :3] - expected).max() < 22
            number = float(page.locator(".explorer-legend output").nth(n).text_content().split()[0])
            assert number == (pytest.approx(high, abs=0.01) if view == "similarity" else pytest.approx(100 * high, abs=0.6))
            low_end = page.locator(".explorer-low").nth(n).text_content()
            assert float(low_end) == pytest.approx(low, abs=0.02)
    finally:
        explorer.view, explorer.layer = "attention", 4
    assert control(page, "Head").is_disabled() and page.locator(".explorer-numbers").first.is_hidden()
    reason = page.locator("#" + control(page, "Head").get_attribute("aria-describedby"))
    assert reason.is_visible() and "head" in reason.text_content() and "layer" in reason.text_content()
    strip = page.locator(STRIPS).first                                           # one row: a click chooses a layer
    box = strip.bounding_box()
    strip.click(position={"x": 2.5 / 4 * box["width"], "y": 0.5 * box["height"]})
    assert f"layer 3, {'attention rollout' if view == 'rollout' else 'similarity of tokens'}" in status(page)
    strip.press("ArrowUp"), strip.press("ArrowRight")
    assert control(page, "Layer").input_value() == "4"
    if view == "similarity":                                                     # of the others, not of itself
        assert "finds most alike row 5, column 5," not in status(page)
    control(page, "View").select_option("attention")
    assert control(page, "Head").is_enabled() and control(page, "Head").input_value() == "mean" and reason.is_hidden()
    assert page.locator(".explorer-numbers").first.is_visible()


def test_a_page_without_a_kernel_takes_no_images(page):
    assert page.get_by_role("button", name="Your image").count() == 0


def test_a_browser_that_is_too_old_says_so(browser, path):
    context = browser.new_context(offline=True)
    context.add_init_script("delete window.DecompressionStream")
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("#widget").inner_text() == TOO_OLD
    context.close()


def test_other_images_and_layers(page):
    drawn = pixels(page, MAPS, 0), pixels(page, MAPS, 1)
    control(page, "Image").select_option("1")
    assert all((pixels(page, MAPS, n) != drawn[n]).any() for n in range(2))
    drawn = pixels(page, MAPS, 1)
    control(page, "Layer").press("Home")
    assert "layer 1," in status(page) and (pixels(page, MAPS, 1) != drawn).any()


def test_the_keyboard_reaches_everything_and_shows_where_it_is(page):
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("""() => {
            const node = document.activeElement, style = getComputedStyle(node);
            const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
            return [node.className || node.tagName, outlined]; }"""))
    assert [name for name, _ in reached] == ["SELECT", "SELECT", "INPUT", "SELECT", "BUTTON", "INPUT", "SELECT",
                                             "explorer-map", "explorer-overview"]
    assert all(visible for _, visible in reached)


def test_everything_has_a_name(page):
    assert page.locator(".explorer").get_attribute("aria-label") == "Attention explorer"
    for name in ("Image", "View", "Layer", "Head", "Overlay", "Colours"):
        assert control(page, name).is_visible()
    for canvas in page.locator(".explorer canvas").all():
        assert len(canvas.get_attribute("aria-label")) > 30 and canvas.get_attribute("role") == "application"


# Contrast of what is in front with the nearest ground that is painted, as WCAG 2 defines it.
CONTRAST = """([selectors, property]) => {
    const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const grounds = node => node ? [...grounds(node.parentElement), getComputedStyle(node).backgroundColor] : ["Canvas"];
    const lightness = colors => {                                 // painted one over the other
        for (const color of colors) { probe.fillStyle = color; probe.fillRect(0, 0, 1, 1); }
        const parts = [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3).map(c => c / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]; };
    return selectors.map(selector => {
        const node = document.querySelector(selector), behind = grounds(property === "color" ? node : node.parentElement);
        const [ground, ink] = [lightness(behind), lightness([...behind, getComputedStyle(node)[property]])];
        return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05); }); }"""
TEXTS = [".explorer-help", ".explorer-outside", ".explorer figcaption", ".explorer-axis", ".explorer-bar select",
         ".explorer-bar label > span", ".explorer-about", ".explorer-notice", ".explorer-bar button[aria-pressed]"]


def test_contrast_is_measured_as_it_is_defined(open_page, path):
    page = open_page(path)
    page.evaluate("""document.querySelector("#widget").innerHTML =
        `<p class="a" style="background:#fff;color:#777">a</p><p class="b" style="background:#000;color:#fff">b</p>`""")
    assert page.evaluate(CONTRAST, [[".a", ".b"], "color"]) == pytest.approx([4.48, 21], abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(open_page, path, scheme):
    page = open_page(path, color_scheme=scheme)
    control(page, "View").select_option("rollout")
    assert min(page.evaluate(CONTRAST, [TEXTS, "color"])) >= 4.5                 # WCAG 2, level AA
    control(page, "View").focus()
    page.keyboard.press("Shift+Tab"), page.keyboard.press("Tab")                 # a ring is for who comes by keyboard
    assert min(page.evaluate(CONTRAST, [[".explorer-bar :focus-visible"], "outlineColor"])) >= 3


@pytest.mark.parametrize("width", [320, 375, 560, 800])
def test_nothing_is_cut_off_on_a_small_screen(open_page, path, width, screenshots):
    page = open_page(path, width=width)
    control(page, "Head").select_option("2")
    assert all(table.evaluate("t => t.scrollWidth <= t.parentElement.clientWidth + 1") for table in
               page.locator(".explorer-numbers").all())
    page.screenshot(path=screenshots / f"explorer-{width}.png", full_page=True)
    control(page, "View").select_option("similarity")
    page.screenshot(path=screenshots / f"explorer-similarity-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    point(page, 2, 3, 1, click=True)
    assert query(page) == 19


def test_a_redraw_fits_into_a_frame_with_two_large_models(open_page, tmp_path, record_property):
    """Two models of 12 layers, 12 heads and 197 tokens: 95 of 100 pointer moves are drawn in under 8 ms, on a quiet machine."""
    maps = {name: attention(12, 1, 12, 197, seed) for seed, name in enumerate("ab")}
    cosines = {name: token_cosines(torch.randn(12, 1, 197, 4)) for name in maps}
    explorer = AttentionExplorer(pictures(1, 224), maps, (14, 14), cosines=cosines)
    page = open_page(explorer.to_html(tmp_path / "large.html"))
    measured = {}
    for name, label, option in (("mean", "Head", "mean"), ("all", "Head", "all"), ("similarity", "View", "similarity")):
        control(page, label).select_option(option)
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
        measured[name] = min(times[94] for times in rounds)                     # a busy machine spoils a round, not all
        record_property(f"redraw_ms_{name}", measured[name])
    print("95th percentile of a redraw in ms:", {name: round(ms, 2) for name, ms in measured.items()})
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
    begin(page)
    page.wait_for_selector(".explorer[data-ready=yes]", timeout=120_000)
    assert query(page) == 36
    assert min(page.evaluate(CONTRAST, [TEXTS, "color"])) >= 4.5
    point(page, 1, 2, 1, click=True)
    strip = page.locator(STRIPS).first
    box = strip.bounding_box()
    strip.click(position={"x": 0.25 * box["width"], "y": 0.5 * box["height"]})                   # layer 1, head 2
    page.locator(MAPS).first.focus()
    page.keyboard.press("ArrowRight"), page.keyboard.press("ArrowRight")         # JupyterLab would move to another cell
    assert query(page) == 12

    run_cell(page, 1, "kept: 12 1 2")
    run_cell(page, 2)
    page.wait_for_selector(".explorer[data-query='-1']", timeout=60_000)
    assert "Query CLS, layer 1, all heads" in status(page)

    run_cell(page, 3)                                                            # the kernel is busy: nothing waits for it
    page.locator(MAPS).first.scroll_into_view_if_needed()
    point(page, 5, 5)
    assert query(page) == 45
    page.screenshot(path=screenshots / "explorer-lab.png")
    assert page.locator(".jp-CodeCell").nth(3).locator(".jp-InputPrompt").text_content() == "[*]:"


OWN = [
    "import torch\nfrom lib.models.vit import create\nfrom lib.viz.explorer import explore\n"
    "images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)\n"
    "explorer = explore(images, {'MoCo v3': create('vit_nano', image_size=32, patch_size=8)})\nexplorer",
    "print('kept:', len(explorer.images), explorer.image, explorer.meta['images'], explorer.images[1, :, 9, 5].tolist())",
    "explorer.view, explorer.layer = 'similarity', 1",
    "explorer.add(torch.full((3, 32, 32), 90, dtype=torch.uint8), 'from Python')",
]


def test_in_jupyterlabs_dark_theme_the_models_look_at_an_image_of_ones_own(open_lab, tmp_path, screenshots):
    page = open_lab(OWN, theme="JupyterLab Dark")
    begin(page)
    page.wait_for_selector(".explorer[data-ready=yes]", timeout=120_000)
    assert page.locator("body").get_attribute("data-jp-theme-light") == "false"
    (tmp_path / "notes.png").write_text("no image")
    Image.new("RGB", (40, 30), (200, 100, 50)).save(tmp_path / "my dog.png")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Your image").press("Enter")
    chooser.value.set_files(tmp_path / "notes.png")
    page.wait_for_selector("text=notes.png is not an image that this browser can read.")
    assert min(page.evaluate(CONTRAST, [[text for text in TEXTS if text != ".explorer-about"], "color"])) >= 4.5
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Your image").click()
    chooser.value.set_files(tmp_path / "my dog.png")
    page.wait_for_function("document.querySelector('.explorer select').options.length === 2", timeout=60_000)
    page.wait_for_function("document.querySelector('.explorer-notice').textContent === ''")
    assert control(page, "Image").input_value() == "1"
    page.wait_for_function("""() => { const p = document.querySelector('.explorer-map').getContext('2d')
        .getImageData(9, 9, 1, 1).data; return p[0] === 200 && p[1] === 100 && p[2] === 50; }""")
    run_cell(page, 1, "kept: 2 1 ['image 0', 'my dog'] [200, 100, 50]")
    run_cell(page, 2, "Similarity: cosine of the query's token with every other, behind layer 1")
    assert control(page, "View").input_value() == "similarity" and control(page, "Head").is_disabled()
    assert min(page.evaluate(CONTRAST, [[".explorer-about"], "color"])) >= 4.5
    run_cell(page, 3)
    page.wait_for_function("document.querySelector('.explorer select').options.length === 3", timeout=60_000)
    assert control(page, "Image").input_value() == "2"
    for selector in ("canvas.explorer-map", ".explorer-bar select"):
        page.locator(selector).first.focus()
        page.keyboard.press("Shift+Tab"), page.keyboard.press("Tab")             # a ring is for who comes by keyboard
        assert min(page.evaluate(CONTRAST, [[".explorer :focus-visible"], "outlineColor"])) >= 3
    page.screenshot(path=screenshots / "explorer-lab-dark.png")
