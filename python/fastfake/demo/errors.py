"""The errors that the demo reports in one line instead of a traceback."""


class DemoError(Exception):
    """What was asked for cannot be run: a broken config, a missing dependency, an unusable size."""


class SideFailure(Exception):
    """fastfake raised on work that torch's FakeTensor had carried out."""


def one_line(error: BaseException, *, longest: int = 300) -> str:
    """Return an error's type and message.

    Args:
        error: The error to put in words.
        longest: How many characters of the message to keep.

    Returns:
        Text without a line break.
    """
    message = " ".join(str(error).split())
    if len(message) > longest:
        message = message[:longest] + "..."
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def first_cause(error: BaseException) -> BaseException:
    """Return what was raised first of a chain of errors: of those raised from others, the innermost."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
