"""Decoding of the string code of RFC 7541 Appendix B; we send strings plain.

The code is canonical, so its table is kept as code lengths. Decoding walks a byte-wise state machine whose rows fill
themselves as they are used: at most 256 states by 256 bytes.
"""

# fmt: off
_LENGTHS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28,
    28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7,
    8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19,
    13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13,
    28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21,
    22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23,
    22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25,
    25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
)
# fmt: on
_EOS = 256
_MAX_PADDING_BITS = 7


class HuffmanError(ValueError):
    """Not a valid encoding: EOS inside, or bad padding."""


class _State(dict[int, "tuple[bytes, _State]"]):
    """An inner node of the code tree: next byte -> (symbols completed, state reached)."""

    __slots__ = ("accepting", "children")

    def __init__(self) -> None:
        super().__init__()
        self.children: list[_State | int | None] = [None, None]
        self.accepting = False

    def __missing__(self, byte: int) -> "tuple[bytes, _State]":
        node = self
        symbols = bytearray()
        for shift in range(7, -1, -1):
            child = node.children[byte >> shift & 1]
            if isinstance(child, _State):
                node = child
            elif child is None or child == _EOS:
                raise HuffmanError("EOS in a string")
            else:
                symbols.append(child)
                node = _ROOT
        step = (bytes(symbols), node)
        self[byte] = step
        return step


def _build() -> _State:
    root = _State()
    code = 0
    previous = 0
    for symbol in sorted(range(len(_LENGTHS)), key=lambda s: (_LENGTHS[s], s)):
        length = _LENGTHS[symbol]
        code <<= length - previous
        previous = length
        node = root
        for shift in range(length - 1, 0, -1):
            child = node.children[code >> shift & 1]
            if not isinstance(child, _State):
                child = node.children[code >> shift & 1] = _State()
            node = child
        node.children[code & 1] = symbol
        code += 1
    node = root
    for _ in range(_MAX_PADDING_BITS + 1):  # padding is a prefix of EOS, all ones, shorter than a byte (§5.2)
        node.accepting = True
        child = node.children[1]
        if not isinstance(child, _State):
            break
        node = child
    return root


_ROOT = _build()


def decode(data: bytes) -> bytes:
    """Decode one string literal; HuffmanError when it is not one."""
    state = _ROOT
    symbols = []
    for byte in data:
        done, state = state[byte]
        symbols.append(done)
    if not state.accepting:
        raise HuffmanError("bad padding")
    return b"".join(symbols)
