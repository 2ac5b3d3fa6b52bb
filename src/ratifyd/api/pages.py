"""What HTTP pages have in common: an answer is `answer(status, headers, body)`, called once."""

from collections.abc import Callable

Headers = list[tuple[str, str]]
Answer = Callable[[int, Headers, bytes], None]
Page = Callable[[str, str, Answer], None]
"""Takes method and query, and answers at once or later."""

TEXT: Headers = [("Content-Type", "text/plain; charset=utf-8")]
ERROR: Headers = [*TEXT, ("X-Content-Type-Options", "nosniff")]
JSON: Headers = [("Content-Type", "application/json")]


def only(method: str, answer: Answer) -> None:
    """Refuse a request with another method."""
    answer(405, [*ERROR, ("Allow", method)], b"Method Not Allowed\n")


def not_found(answer: Answer) -> None:
    """There is no such page."""
    answer(404, ERROR, b"404 page not found\n")
