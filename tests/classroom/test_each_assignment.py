"""What submissions of every assignment but the first earn; the first goes through the whole cycle in test_cycle.py."""
import time

import grade
import pytest
import release
from submissions import LIMITS, hand_in, named, solved, tampered, worth

OTHERS = release.numbers()[1:]


@pytest.mark.parametrize("number", OTHERS)
def test_what_a_submission_of_each_assignment_earns(number, made, tmp_path):
    """A full and a half one; of the last assignment also an empty and a tampered one."""
    one = made(number)
    tasks = list(named(one.source, "answer"))
    kinds = {"full": (solved(one, tasks), worth(one, tasks)), "half": (solved(one, tasks[::2]), worth(one, tasks[::2]))}
    if number == OTHERS[-1]:
        kinds |= {"empty": (one.student, 0), "tampered": (tampered(one), 0)}
    for student, (notebook, _) in kinds.items():
        hand_in(tmp_path, student, number, notebook)
    start = time.process_time()
    lines = grade.grade(tmp_path, one.course, LIMITS, say=lambda *text, **_: None)
    assert {line["student"]: line["points"] for line in lines if line["assignment"] == number} == {
        student: points for student, (_, points) in kinds.items()}
    assert (time.process_time() - start) / len(kinds) < 30
