"""What the course's widgets have in common: a value that does not exist is refused, and neither side keeps it."""
import anywidget
from traitlets import TraitError

from lib.errors import CourseError


class BadValue(CourseError, TraitError):
    """A trait was given a value that does not exist. Being a TraitError, it makes traitlets go back to the value before."""


class Widget(anywidget.AnyWidget):
    """A widget whose traits are validated; what the browser sends and Python refuses is put right in the browser too."""

    def set_state(self, sync_data: dict) -> None:
        try:
            super().set_state(sync_data)
        except TraitError:
            self.send_state([name for name in sync_data if name in self.keys])
            raise


def check_number(name: str, value, low: float, high: float, what: str) -> None:
    """Raises BadValue unless low <= value <= high, True and False being no numbers here."""
    if isinstance(value, bool) or not low <= value <= high:
        raise BadValue(f"{name} = {value} does not exist; give {what}, from {low} to {high}")
