"""A training run to watch: it goes on in a thread of the notebook, and the widget shows how far it is, with a stop button."""
import base64
import threading
import time
from collections import deque
from pathlib import Path

import matplotlib.pyplot as plt
import traitlets

from lib.errors import CourseError
from lib.training.recipes import objective_of
from lib.training.trainer import BUSY, Trainer
from lib.viz.plots import COLORS, png_of
from lib.viz.widget import Widget

HERE = Path(__file__).parent
POINTS = 400                                                       # of a curve at most: more cannot be seen
EVERY = 0.5                                                        # seconds between two looks at the run
WINDOW = 20                                                        # looks over which the speed is taken


class Monitor(Widget):
    """Loss, what the trainer's own monitor measures (k-NN), images a second, time left, and a button that stops the run.

        monitor = Monitor(Trainer(recipe("mocov3", "smoke"), source, "runs/first"))
        monitor.start()
        monitor                      # the kernel is free for other cells meanwhile
        monitor.wait()               # in a later cell, where one needs the result

    The kernel hears the button between cells; while a cell waits for the run, interrupting the kernel stops it just as well.
    A stopped run has its checkpoint in the trainer's folder, and `start()` goes on with it. What the run computes does not
    depend on being watched, unless another cell draws from PyTorch's global random numbers at the same time.
    `state` is ready, running, stopping, stopped, done or failed; `text` says it in a line; both are seen from Python.
    """
    _esm = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("dom.js", "monitor.js"))
    _css = (HERE / "monitor.css").read_text(encoding="utf-8")

    meta = traitlets.Dict().tag(sync=True)
    state = traitlets.Unicode("ready").tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)
    share = traitlets.Float(0.0).tag(sync=True)                    # of the steps that are done
    curves = traitlets.Dict().tag(sync=True)                       # {name: [[step, value], ...]}
    asked_to_stop = traitlets.Int(0).tag(sync=True)                # how often the button was pressed

    def __init__(self, trainer: Trainer, **shown):
        if not isinstance(trainer, Trainer):
            raise CourseError(f"a monitor watches a Trainer, got a {type(trainer).__name__}")
        objective = objective_of(trainer.recipe)
        self.trainer, self._error, self._threads, self._lock = trainer, None, [], threading.Lock()
        color = COLORS.get(objective, "black")
        super().__init__(meta={"title": f"Training {objective}", "color": color, "steps": trainer.steps,
                               "button": "Stop, keep a checkpoint" if trainer.folder else "Stop"}, **shown)
        if trainer.step >= trainer.steps:
            self.state = "done"
        self._look(deque())

    def start(self) -> None:
        """Train in a thread, from where the run stands. Raises CourseError if it runs already, or has come to its end."""
        if any(thread.is_alive() for thread in self._threads):
            raise CourseError("this run is already going on; monitor.wait() waits for it, monitor.stop() stops it")
        if self.trainer.running:
            raise CourseError(BUSY)
        if self.trainer.step >= self.trainer.steps:
            raise CourseError(f"this run is done, {self.trainer.steps} steps; make a new Trainer to train again")
        self.trainer.stop, self._error, self.state = False, None, "running"
        ended = threading.Event()
        self._threads = [threading.Thread(target=self._train, args=(ended,), daemon=True),
                         threading.Thread(target=self._watch, args=(ended,), daemon=True)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask the run to end after the current step, with a checkpoint where the trainer has a folder."""
        with self._lock:                                           # the run may come to its end at this very moment
            if self.state == "running":
                self.trainer.stop, self.state = True, "stopping"

    def wait(self) -> None:
        """Return once the run has ended; what ended it, if it failed, is raised here. An interrupt stops the run."""
        try:
            self._join()
        except KeyboardInterrupt:
            self.stop()
            self._join()
        if self._error is not None:
            raise self._error

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    @traitlets.observe("asked_to_stop")
    def _pressed(self, change) -> None:
        self.stop()

    # -- the two threads ---------------------------------------------------------------------------------------------

    def _train(self, ended: threading.Event) -> None:
        try:
            self.trainer.run()
        except BaseException as error:                             # for `wait` to raise
            self._error = error
        finally:
            ended.set()

    def _watch(self, ended: threading.Event) -> None:
        looks = deque(maxlen=WINDOW)
        while not ended.wait(EVERY):
            self._look(looks)
        done = self.trainer.step == self.trainer.steps
        with self.hold_sync():
            with self._lock:
                self.state = "failed" if self._error is not None else "done" if done else "stopped"
            self._look(looks)

    def _look(self, looks: deque) -> None:
        """Show where the run stands. looks: (time, step) of the last times, from which the speed comes."""
        step, history = self.trainer.step, list(self.trainer.history)
        looks.append((time.perf_counter(), step))
        curves = {}
        for line in history:
            for name in ["loss"] if "loss" in line else [n for n in line if n not in ("step", "epoch")]:
                curves.setdefault(name, []).append([line["step"], float(line[name])])
        with self.hold_sync():                                     # one message for all three
            self.curves = {name: thinned(points) for name, points in curves.items()}
            self.share = step / self.trainer.steps
            self.text = self._say(step, looks)

    def _say(self, step: int, looks: deque) -> str:
        place, folder = f"step {step} of {self.trainer.steps}", self.trainer.folder
        if self.state == "failed":
            known = isinstance(self._error, CourseError)
            return " ".join(f"{'' if known else type(self._error).__name__ + ': '}{self._error}".split())
        if self.state == "stopped":
            kept = f"the checkpoint is in {folder}" if folder else "no folder was given, so nothing was written"
            return f"stopped after {place}; {kept}; monitor.start() goes on"
        if self.state == "done":
            return f"done, {self.trainer.steps} steps" + (f"; the weights are in {folder}" if folder else "")
        if self.state == "ready":
            return f"{place}; monitor.start() starts it"
        (since, first), (now, _) = looks[0], looks[-1]
        if step == first:
            return place
        rate = (step - first) / (now - since)                      # steps a second
        return (f"{place} · {rate * self.trainer.recipe.batch_size:,.0f} img/s · "
                f"{clock((self.trainer.steps - step) / rate)} left")

    # -- without a kernel --------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"{self.meta['title']}, {self.meta['steps']} steps"

    def _repr_mimebundle_(self, **kwargs):
        bundle, metadata = super()._repr_mimebundle_(**kwargs)
        bundle |= {"text/plain": repr(self)}
        if not self.curves:                                        # nothing to draw yet
            return bundle, metadata
        bundle |= {"image/png": base64.b64encode(self.still()).decode()}
        return bundle, metadata | {"image/png": {"alt": f"{self!r}: curves of {', '.join(self.curves)}"}}

    def still(self) -> bytes:
        """The curves so far, as a PNG file. Raises CourseError if there are none."""
        if not self.curves:
            raise CourseError("nothing was logged yet, so there is nothing to draw; a line comes every `log_every` steps")
        figure, panels = plt.subplots(1, len(self.curves), figsize=(3.5 * len(self.curves), 2.4), squeeze=False, dpi=110,
                                      layout="constrained")
        for axis, (name, points) in zip(panels[0], self.curves.items()):
            axis.plot(*zip(*points), color=self.meta["color"], marker="o" if len(points) < 12 else None, ms=3)
            axis.set(xlabel="step", ylabel=name, title=self.meta["title"], xlim=(0, None))
        return png_of(figure)


def thinned(points: list) -> list:
    """At most POINTS of them, evenly spread, the first and the last one included."""
    if len(points) <= POINTS:
        return points
    return [points[round(k * (len(points) - 1) / (POINTS - 1))] for k in range(POINTS)]


def clock(seconds: float) -> str:
    """75 -> 1:15, 4000 -> 1:06:40"""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"
