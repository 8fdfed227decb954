"""The one error a user of the course may cause and should be able to mend."""


class CourseError(ValueError):
    """Something given was wrong. The message says what came, what was expected and what to do, in one line.

    Command lines print it without a traceback and exit with code 2.
    """
