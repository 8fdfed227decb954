"""What the tests of all chapters' checks share."""
import sys

import pytest
import torch


@pytest.fixture
def verdict(capsys):
    """verdict(check, answer) -> what the check returned, and the one line it printed."""
    def judge(check, answer):
        result, out = check(answer), capsys.readouterr().out
        assert out.endswith("\n") and out.count("\n") == 1, out
        return result, out.rstrip("\n")
    return judge


@pytest.fixture
def none_alike(monkeypatch):
    """none_alike(check, right answer): no mistake has the result of another, or the check might name the wrong one.

    It reads the results from what the check hands to `compare`, or in chapter 02 to `_numbers`.
    """
    def judge(check, answer):
        seen, chapter = [], sys.modules[check.__module__]

        def record(got, expected, mistakes, given):
            seen.append([expected, *mistakes.values()])

        for name in {"compare", "_numbers"} & set(vars(chapter)):
            monkeypatch.setattr(chapter, name, record)
        assert check(answer) is True and seen
        for results in seen:
            results = [torch.as_tensor(result, dtype=torch.float64) for result in results]
            for i, a in enumerate(results):
                for b in results[i + 1:]:
                    assert a.shape != b.shape or not torch.allclose(a, b, rtol=2e-4, atol=1e-4, equal_nan=True)
    return judge
