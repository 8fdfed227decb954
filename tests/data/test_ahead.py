"""Reading ahead gives what reading gives, in any order of steps, and hides the time that a disk takes."""
import time

import pytest
import torch

from lib.data.ahead import Ahead, batch_of
from lib.data.views import Whole
from lib.errors import CourseError

CPU = torch.device("cpu")


class Disk:
    """A source in a file, each question to which takes a while."""
    path, size = "x.images", 4

    def __init__(self, wait=0.0, aspects=None):
        self.wait, self.asked, self.aspects = wait, 0, aspects

    def images(self, indices):
        time.sleep(self.wait)
        self.asked += len(indices)
        if (indices > 90).any():
            raise CourseError("there are images 0 to 90")
        return indices.to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)


def indices_of(step):
    return torch.tensor([step, 2 * step, 7, 3, step + 1])


@pytest.mark.parametrize("steps", [[0, 1, 2, 3], [0, 5, 6, 2, 2, 9, 10, 3]])
@pytest.mark.parametrize("threads", [1, 3, 8])
def test_it_gives_what_the_source_gives(steps, threads):
    source = Disk()
    reading = Ahead(source, indices_of, 11, CPU, threads=threads)
    for step in steps:
        assert torch.equal(reading(step), batch_of(source, indices_of(step), CPU))


def test_nothing_is_read_twice_or_beyond_the_end():
    source = Disk()
    reading = Ahead(source, indices_of, 6, CPU, steps=3)
    for step in range(6):
        reading(step)
    assert source.asked == 6 * 5


def test_the_time_of_the_disk_is_hidden():
    """Without reading ahead eight batches, worked on for 40 ms each, would wait 40 ms for each of five images."""
    reading = Ahead(Disk(wait=0.04), indices_of, 8, CPU)
    begun = time.perf_counter()
    for step in range(8):
        reading(step)
        time.sleep(0.04)
    assert time.perf_counter() - begun < 8 * (0.04 + 5 * 0.04) / 1.5


def test_what_the_reading_raises_is_raised_at_its_step():
    reading = Ahead(Disk(), lambda step: torch.tensor([91 if step == 1 else 0]), 3, CPU)
    reading(0)
    with pytest.raises(CourseError, match="there are images 0 to 90"):
        reading(1)


def test_whole_images_come_with_their_aspects():
    aspects = torch.rand(100) + 0.5
    for source in (Disk(aspects=aspects), type("Memory", (), {"images": Disk().images, "aspects": aspects})()):
        images = Ahead(source, indices_of, 4, CPU)(3)
        assert isinstance(images, Whole) and torch.equal(images.aspects, aspects[indices_of(3)])
        assert images.pixels[:, 0, 0, 0].tolist() == indices_of(3).tolist()
