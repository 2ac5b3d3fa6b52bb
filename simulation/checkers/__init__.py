"""The promises, one small class each. A broken one raises `Violation` with a text that says what was seen.

`observe(member)` looks at a member after each of its callbacks, `finish(world)` at everything once the run is over.
"""


class Violation(Exception):
    """A promise was broken; `checker` names it."""

    def __init__(self, checker: str, text: str) -> None:
        super().__init__(f"{checker}: {text}")
        self.checker = checker
