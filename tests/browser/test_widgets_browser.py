"""Frames and monitor as a person uses them, in a real browser: from a file, and both in one JupyterLab."""
import torch
from jupyter_lab import begin, run_cell
from PIL import Image

from lib.viz.frames import Frames

CONTROLS = {"left": {"dark": 20, "light": 220}, "right": [10, 120, 230]}


def flat(left, right):
    return torch.tensor([left, right], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 8, 8), f"{left} and {right}"


def shown(page, n, scratch):
    """The grey in the middle of a picture, as it is on the screen."""
    page.locator(".frames-picture").nth(n).screenshot(path=scratch / "picture.png")
    picture = Image.open(scratch / "picture.png").convert("L")
    return picture.getpixel((picture.width // 2, picture.height // 2))


def test_a_turn_shows_other_pictures_without_a_kernel(open_page, tmp_path, screenshots):
    frames = Frames(flat, CONTROLS, ["one", "two"], "Two flat pictures, as bright as the controls say.")
    page = open_page(frames.to_html(tmp_path / "frames.html"), width=360)
    assert (shown(page, 0, tmp_path), shown(page, 1, tmp_path)) == (20, 10)
    page.get_by_role("slider", name="right").press("ArrowRight")
    page.get_by_role("slider", name="right").press("ArrowRight")
    page.get_by_role("slider", name="left").press("End")
    assert (shown(page, 0, tmp_path), shown(page, 1, tmp_path)) == (220, 230)
    assert page.locator(".frames-caption").text_content() == "220 and 230"
    assert page.get_by_role("slider", name="left").get_attribute("aria-valuetext") == "light"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.screenshot(path=screenshots / "frames.png")


CELLS = ["""\
import torch
from lib.data import Loaded, open_source
from lib.training.recipes import recipe
from lib.training.trainer import Trainer
from lib.viz.frames import Frames
from lib.viz.monitor import Monitor

torch.set_num_threads(1)
source = Loaded(open_source("shapes", "train", 16, limit=64, difficulty="easy"))
settings = recipe("simmim", images=64, epochs=100_000, batch_size=16, image_size=16, patch_size=8, mask_cell=1, knn_every=5,
                  model="vit_nano", device="cpu")
trainer = Trainer(settings, source, "run", monitor=lambda backbone: {"knn": 0.5 + trainer.step % 100 / 1000})
monitor = Monitor(trainer)
monitor.start()
monitor""",
         "print('kernel answers:', monitor.state, 'after some steps:', trainer.step > 0)",
         "monitor.wait(); print('kept:', monitor.state, Trainer(settings, source, 'run', resume=True).step == trainer.step)",
         "monitor.start(); monitor.wait(); print('again:', monitor.state)",
         "frames = Frames(lambda a, b: (torch.full((1, 3, 8, 8), a + b), f'sum {a + b}'), {'a': [0.0, 0.5], 'b': [0.1, 0.4]},\n"
         "                ['sum'], 'A flat picture, as bright as a sum')\nframes",
         "print('set to:', frames.setting, frames.caption)", "frames.setting = {'b': '0.1'}"]


def test_in_jupyterlab_a_run_is_watched_and_stopped(open_lab, screenshots):
    page = open_lab(CELLS)
    begin(page)
    page.wait_for_selector(".monitor[data-state=running]", timeout=180_000)
    page.wait_for_selector(".monitor-stage svg >> nth=1", timeout=60_000)       # a curve of the loss and one of k-NN
    run_cell(page, 1, "kernel answers: running after some steps: True")
    page.wait_for_function("document.querySelector('.monitor-text').textContent.includes('img/s')", timeout=60_000)
    page.locator(".monitor").screenshot(path=screenshots / "monitor.png")
    stop = page.get_by_role("button", name="Stop, keep a checkpoint")
    stop.click()
    page.wait_for_selector(".monitor[data-state=stopped]", timeout=60_000)
    assert "the checkpoint is in run" in page.locator(".monitor-text").text_content() and stop.is_disabled()
    run_cell(page, 2, "kept: stopped True")
    run_cell(page, 3)
    page.wait_for_selector(".monitor[data-state=running]", timeout=60_000)
    stop.click()                                                   # while a cell waits for the run, and the kernel with it
    page.wait_for_selector("text=The kernel is busy with a cell", timeout=60_000)
    page.locator("[data-command='notebook:interrupt-kernel']").first.click()
    page.wait_for_selector("text=again: stopped", timeout=60_000)
    assert page.locator(".monitor-note").text_content() == ""

    run_cell(page, 4)
    page.wait_for_selector(".frames[data-ready=yes]", timeout=60_000)
    page.get_by_role("slider", name="a").press("ArrowRight")
    page.get_by_role("slider", name="b").press("End")
    assert page.locator(".frames-caption").text_content() == "sum 0.9"
    run_cell(page, 5, "set to: {'a': '0.5', 'b': '0.4'} sum 0.9")
    run_cell(page, 6)
    page.wait_for_selector(".frames[data-number='2']", timeout=60_000)
