"""The reconstruction as a person uses it, in a real JupyterLab: draw, press keys, and read it back in Python."""
import base64
import io

import numpy as np
import pytest
from jupyter_lab import begin, run_cell
from PIL import Image

CELLS = [
    "import torch\nfrom lib.models.vit import create\nfrom lib.objectives.masked import SimMIM\n"
    "from lib.viz.reconstruction import Reconstruction\n_ = torch.manual_seed(0)\n"
    "model = SimMIM(create('vit_nano', image_size=32, patch_size=8, mask_token=True))\n"
    "images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)\n"
    "shown = Reconstruction(images, model, torch.zeros(4, 4, dtype=torch.bool))\nshown",
    "print('kept:', shown.masked, f'{shown.error:.0f}')",
    "shown.mask = torch.eye(4, dtype=torch.bool)",
    "shown.image = 1",
    "import time; time.sleep(6)",
]
CANVAS = ".reconstruction canvas"


def pixels(page, n):
    url = page.locator(CANVAS).nth(n).evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")).astype(int)


def patches_that_differ(one, other):
    step = len(one) // 4
    return [4 * row + column for row in range(4) for column in range(4)
            if (abs(one - other)[row * step + 20:(row + 1) * step - 20, column * step + 20:(column + 1) * step - 20] > 2).any()]


def report(page):
    return page.locator(".reconstruction [role=status]").text_content()


def answered(page, count):
    page.wait_for_function(f"document.querySelector('.reconstruction [role=status]').textContent.startsWith('{count} of 16')"
                           " && document.querySelector('.reconstruction').dataset.late === 'no'", timeout=60_000)


def test_draw_a_mask_and_the_network_fills_it_in(open_lab, screenshots):
    page = open_lab(CELLS)
    begin(page)
    page.wait_for_selector(".reconstruction[data-ready=yes]", timeout=120_000)
    assert report(page).startswith("Nothing is masked") and patches_that_differ(pixels(page, 2), pixels(page, 0)) == []

    middle = page.locator(CANVAS).nth(1)
    middle.scroll_into_view_if_needed()
    box = middle.bounding_box()
    at = lambda row, column: (box["x"] + (column + 0.5) / 4 * box["width"], box["y"] + (row + 0.5) / 4 * box["height"])  # noqa: E731
    page.mouse.move(*at(0, 0)), page.mouse.down()
    page.mouse.move(*at(0, 3), steps=1), page.mouse.up()                         # a stroke over the first row, in one jump
    answered(page, 4)
    assert (pixels(page, 1)[50:60, 50:60] == 128).all() and (pixels(page, 1)[200:210, 50:60] != 128).any()
    assert patches_that_differ(pixels(page, 2), pixels(page, 0)) == [0, 1, 2, 3]
    page.mouse.click(*at(0, 1))                                                  # shows it again
    answered(page, 3)

    middle.focus()                                                               # where the click was: row 1, column 2
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Space"):                # JupyterLab would move to another cell
        page.keyboard.press(key)
    answered(page, 4)
    assert "Row 3, column 3 is hidden" in middle.get_attribute("aria-label")
    shown = float(report(page).split("wrong by ")[1].split()[0])
    run_cell(page, 1, f"kept: [0, 2, 3, 10] {shown:.0f}")

    run_cell(page, 2)
    page.wait_for_function(f"() => {{ const canvas = document.querySelectorAll('{CANVAS}')[1], middle = 1.5 * canvas.width / 4;"
                           "const p = canvas.getContext('2d').getImageData(middle, middle, 1, 1).data;"
                           "return p[0] === 128 && p[1] === 128; }")               # row 2, column 2 is hidden
    answered(page, 4)
    assert patches_that_differ(pixels(page, 2), pixels(page, 0)) == [0, 5, 10, 15]
    before = pixels(page, 0)
    run_cell(page, 3)
    page.wait_for_function("document.querySelector('.reconstruction select').value === '1'")
    answered(page, 4)
    assert (pixels(page, 0) != before).any() and patches_that_differ(pixels(page, 2), pixels(page, 0)) == [0, 5, 10, 15]
    page.get_by_role("button", name="Random mask").click()
    answered(page, 12)
    page.locator(CANVAS).first.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "reconstruction-lab.png")

    run_cell(page, 4)                                                            # the kernel is busy: the mask is drawn at once
    page.evaluate("""() => { const node = document.querySelector('.reconstruction [role=status]'); window.said = [];
        new MutationObserver(() => window.said.push(node.textContent)).observe(node, { childList: true, characterData: true,
                                                                                       subtree: true }); }""")
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelector('.reconstruction [role=status]').textContent.startsWith('Nothing')",
                           timeout=60_000)
    assert page.evaluate("window.said")[0] == "0 of 16 patches masked. The network is at it …"


@pytest.mark.parametrize("width", [375])
def test_it_fits_a_small_screen_and_the_keyboard_reaches_everything(browser, tmp_path, width):
    """With a stand-in for the kernel, which notes what it is asked."""
    import torch

    from lib.models.vit import create
    from lib.objectives.masked import SimMIM
    from lib.viz.page import write_page
    from lib.viz.reconstruction import Reconstruction

    model = SimMIM(create("vit_nano", image_size=32, patch_size=8, mask_token=True))
    shown = Reconstruction(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), model)
    state = {name: getattr(shown, name) for name in ("meta", "image", "masked", "report")}
    path = write_page(tmp_path / "page.html", "mask", shown._esm, shown._css, state,
                      {"pictures": shown.pictures, "filled": shown.filled})
    context = browser.new_context(viewport={"width": width, "height": 700}, offline=True)
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("[data-ready=yes]", timeout=20_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("""() => [document.activeElement.tagName,
            parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2]"""))
    assert reached == [["SELECT", True], ["BUTTON", True], ["BUTTON", True], ["CANVAS", True]]

    text = path.read_text(encoding="utf-8")
    assert text.count("send() {}") == 1
    path.write_text(text.replace("send() {}", "send() { throw new Error('Cannot send'); }"), encoding="utf-8")
    page.goto(path.as_uri())                                                     # now with a kernel that has ended
    page.wait_for_selector("[data-ready=yes]", timeout=20_000)
    for name in ("Random mask", "Show all"):
        page.get_by_role("button", name=name).click()
        assert report(page) == "The kernel that made this has ended: run the cell again."
    context.close()
