"""The monitor: a run in a thread is the run without one, a stop leaves a checkpoint, and what fails is said and raised."""
import base64
import threading
from collections import deque

import pytest
import torch

from lib.data import Loaded, open_source
from lib.errors import CourseError
from lib.training.recipes import recipe
from lib.training.trainer import Trainer
from lib.viz import monitor as module
from lib.viz.monitor import Monitor, clock, thinned

TINY = dict(images=32, epochs=3, batch_size=8, image_size=16, patch_size=8, model="vit_nano", warmup_epochs=0.5, log_every=2,
            mask_cell=1, mask_ratio=0.5, knn_every=1, device="cpu", difficulty="easy")       # 12 steps


@pytest.fixture(scope="module")
def source():
    return Loaded(open_source("shapes", "train", 16, limit=32, difficulty="easy"))


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.01)


def trainer(source, folder=None, **options):
    return Trainer(recipe("simmim", **TINY), source, folder, **options)


class Held:
    """A trainer's monitor that waits at its first call, so that a test can act while the run goes on."""

    def __init__(self):
        self.reached, self.go = threading.Event(), threading.Event()

    def __call__(self, backbone):
        self.reached.set()
        assert self.go.wait(60)
        return {"knn": 0.5}


def test_a_watched_run_is_the_run_without_a_monitor(source):
    plain = trainer(source, monitor=lambda backbone: {"knn": 0.25})
    plain.run()
    watched = Monitor(trainer(source, monitor=lambda backbone: {"knn": 0.25}))
    assert watched.state == "ready" and "monitor.start()" in watched.text
    watched.start()
    watched.wait()
    assert watched.state == "done" and watched.text == "done, 12 steps" and watched.share == 1
    assert watched.trainer.history == plain.history
    assert all(torch.equal(a, b) for a, b in zip(watched.trainer.objective.parameters(), plain.objective.parameters()))
    losses = [[line["step"], line["loss"]] for line in plain.history if "loss" in line]
    assert watched.curves == {"loss": losses, "knn": [[4, 0.25], [8, 0.25], [12, 0.25]]} and len(losses) == 6
    with pytest.raises(CourseError, match="this run is done, 12 steps"):
        watched.start()


def test_the_button_stops_a_run_with_a_checkpoint_that_resumes(source, tmp_path):
    held = Held()
    monitor = Monitor(trainer(source, tmp_path / "run", monitor=held))
    monitor.start()
    assert held.reached.wait(60)
    with pytest.raises(CourseError, match="already going on"):
        monitor.start()
    monitor.set_state({"asked_to_stop": 1})                        # what a press sends
    assert monitor.state == "stopping" and monitor.trainer.stop
    held.go.set()
    monitor.wait()
    assert monitor.state == "stopped" and monitor.trainer.step == 5
    assert monitor.text == (f"stopped after step 5 of 12; the checkpoint is in {tmp_path / 'run'}; monitor.start() goes on")
    again = Monitor(trainer(source, tmp_path / "run", resume=True))
    assert again.trainer.step == 5 and again.curves["loss"] == monitor.curves["loss"]            # the curve of before
    again.start()
    again.wait()
    assert again.state == "done" and (tmp_path / "run/backbone.safetensors").exists()
    unbroken = trainer(source)
    unbroken.run()
    assert all(torch.equal(a, b) for a, b in zip(again.trainer.objective.parameters(), unbroken.objective.parameters()))


def test_a_stopped_run_goes_on_and_without_a_folder_says_so(source):
    held = Held()
    monitor = Monitor(trainer(source, monitor=held))
    monitor.stop()                                                 # nothing runs: nothing to stop
    assert monitor.state == "ready" and not monitor.trainer.stop
    monitor.start()
    assert held.reached.wait(60)
    monitor.stop()
    held.go.set()
    monitor.wait()
    assert monitor.meta["button"] == "Stop" and "no folder was given, so nothing was written" in monitor.text
    monitor.start()
    monitor.wait()
    assert monitor.state == "done" and monitor.trainer.step == 12


@pytest.mark.parametrize("error, text", [
    (CourseError("the loss is not\n  finite"), "the loss is not finite"),
    (RuntimeError("no memory left\nfor it"), "RuntimeError: no memory left for it"),
])
def test_what_fails_is_one_line_in_the_widget_and_raised_by_wait(source, error, text):
    def fail(backbone):
        raise error

    monitor = Monitor(trainer(source, monitor=fail))
    monitor.start()
    with pytest.raises(type(error)) as raised:
        monitor.wait()
    assert raised.value is error and monitor.state == "failed" and monitor.text == text
    assert monitor.curves["loss"][-1][0] == 4                      # what was logged before stays


def test_an_interrupt_while_waiting_stops_the_run(source, monkeypatch):
    held = Held()
    monitor = Monitor(trainer(source, monitor=held))
    monitor.start()
    assert held.reached.wait(60)
    join, calls = monitor._join, []

    def interrupted():
        calls.append(monitor.state)
        held.go.set()
        if len(calls) == 1:
            raise KeyboardInterrupt
        join()

    monkeypatch.setattr(monitor, "_join", interrupted)
    monitor.wait()
    assert calls == ["running", "stopping"] and monitor.state == "stopped"


def test_speed_and_time_left(source, monkeypatch):
    monitor = Monitor(trainer(source))
    monitor.state, looks = "running", deque(maxlen=3)
    for second, step in ((100, 0), (101, 1), (103, 3), (104, 4)):  # the first is forgotten
        monkeypatch.setattr(module.time, "perf_counter", lambda second=second: second)
        monitor.trainer.step = step
        monitor._look(looks)
    assert monitor.text == "step 4 of 12 · 8 img/s · 0:08 left"
    assert [clock(seconds) for seconds in (0.4, 75, 4000)] == ["0:00", "1:15", "1:06:40"]
    assert thinned(list(range(1000)))[::399] == [0, 999] and len(thinned(list(range(401)))) == 400


def test_without_a_kernel_a_picture_once_there_is_something_to_draw(source):
    monitor = Monitor(trainer(source))
    bundle, _ = monitor._repr_mimebundle_()
    assert bundle["text/plain"] == repr(monitor) == "Training simmim, 12 steps" and "image/png" not in bundle
    with pytest.raises(CourseError, match="nothing was logged yet"):
        monitor.still()
    monitor.curves = {"loss": [[2, 1.0], [4, 0.5]]}
    bundle, metadata = monitor._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG") and bundle["text/plain"] == repr(monitor)
    assert metadata["image/png"]["alt"] == "Training simmim, 12 steps: curves of loss"
    assert "application/vnd.jupyter.widget-view+json" in bundle
