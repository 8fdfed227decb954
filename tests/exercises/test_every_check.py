"""What holds for the checks of all chapters: a stub, a forgotten return, a crash and any odd result get one friendly line."""
import importlib
import math
import pkgutil

import pytest
import torch

import lib.exercises

CHAPTERS = [importlib.import_module(f"lib.exercises.{module.name}") for module in pkgutil.iter_modules(lib.exercises.__path__)]
CHECKS = [pytest.param(check, id=f"{chapter.__name__[-2:]}-{name}") for chapter in CHAPTERS
          for name, check in vars(chapter).items() if name.startswith("check_")]
every_check = pytest.mark.parametrize("check", CHECKS)


def test_checks_are_found():
    assert len(CHECKS) >= 12


@every_check
def test_a_stub_gets_a_friendly_answer(check, verdict):
    def stub(*arguments):
        raise NotImplementedError

    assert verdict(check, stub) == (None, "Not yet: write `stub`, then run this cell again.")


@every_check
def test_a_forgotten_return_is_named(check, verdict):
    result, line = verdict(check, lambda *arguments: None)
    assert result is False and line.startswith("Not right: ") and "Is the return missing" in line


@every_check
def test_a_crash_is_named(check, verdict):
    result, line = verdict(check, lambda: None)
    assert result is False and "stopped with TypeError" in line
    result, line = verdict(check, "no function")
    assert result is False and "stopped with TypeError" in line


ODD = ["text", [], (), {}, [None, None], ("a", "b"), 1j, math.nan, math.inf, -7, True, torch.zeros(0),
       torch.zeros(2, 0, 3), torch.tensor(math.nan), torch.zeros(1, 1, 1, 1, 1), torch.ones(2, dtype=torch.bool)]


@every_check
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_an_odd_result_is_wrong_and_the_check_does_not_stumble(check, odd, verdict):
    result, line = verdict(check, lambda *arguments: odd)
    assert result is False and line.startswith("Not right: ")
    assert "stopped with" not in line, line                                        # the answer did not stop


@every_check
def test_what_pytorch_has_not_implemented_is_no_stub(check, verdict):
    def answer(*arguments):
        return torch.nn.functional.gelu(torch.arange(3))

    result, line = verdict(check, answer)
    first = answer.__code__.co_firstlineno + 1
    assert result is False and "stopped with NotImplementedError: " in line and line.endswith(f" (line {first} of its cell)")


def test_an_error_without_words_is_told_without_a_colon(verdict):
    def answer(*arguments):
        raise AssertionError

    assert verdict(lib.exercises.check(lambda given: given(1)), answer)[1].startswith(
        "Not right: `answer` stopped with AssertionError (line ")
