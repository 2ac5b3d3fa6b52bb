"""JSON text: Go's words for what is wrong with it, and values cut from a stream."""

import sys

import pytest

from ratifyd.api.jsontext import BadJson, ValueSplitter, first_value, locate, position, text_of, token_at


def _wrong(text: str | bytes) -> str:
    with pytest.raises(BadJson) as bad:
        first_value(text_of(text if isinstance(text, bytes) else text.encode()))
    return str(bad.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"key":', "unexpected EOF"),
        ('{"key', "unexpected EOF"),
        ("{", "unexpected EOF"),
        ('{"key" 5}', "invalid character '5' after object key"),
        ('{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        ('{"a":[1 2]}', "invalid character '2' after array element"),
        ('{"a":[{"b":"]"} 2]}', "invalid character '2' after array element"),
        ('{"a":[1],"b":{"c":1 2}}', "invalid character '2' after object key:value pair"),
        ("{a}", "invalid character 'a' looking for beginning of object key string"),
        ('{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ('{"a":01}', "invalid character '1' after object key:value pair"),
        ('{"a":1.}', "invalid character '}' after decimal point in numeric literal"),
        ('{"a":1.0e1.5}', "invalid character '.' after object key:value pair"),
        ('{"a":1.e1}', "invalid character 'e' after decimal point in numeric literal"),
        ('{"a":1e+}', "invalid character '}' in exponent of numeric literal"),
        ('{"a":-}', "invalid character '}' in numeric literal"),
        ('{"a":tru}', "invalid character '}' in literal true (expecting 'e')"),
        ('{"a":nul', "unexpected EOF"),
        ('{"a":"NaN","b":NaN}', "invalid character 'N' looking for beginning of value"),
        ('{"a":-Infinity}', "invalid character 'I' in numeric literal"),
        ('{"a":"\\x"}', "invalid character 'x' in string escape code"),
        ('{"a":"\\u12g4"}', "invalid character 'g' in \\u hexadecimal character escape"),
        ('{"a":"\n"}', "invalid character '\\n' in string literal"),
        ("'", "invalid character '\\'' looking for beginning of value"),
        ("é", "invalid character 'Ã' looking for beginning of value"),
        (b'{"k":1,"x":"\xff"}', "proto: syntax error (line 1:12): invalid UTF-8 in string"),
        ('{"k":"\\ud800 and more"}', 'proto: syntax error (line 1:6): invalid escape code " and m" in string'),
        ("[" * 100_000, "exceeded max depth"),
    ],
)
def test_words_of_go(text: str | bytes, message: str) -> None:
    assert _wrong(text) == message


def test_first_value_only() -> None:
    assert first_value(' {"a":[1.50,"x",true,null]} {"b"') == ((("a", ["1.50", "x", True, None]),), 1, 27)
    assert first_value('{"a":1,"a":2}')[0] == (("a", "1"), ("a", "2"))
    assert first_value('{"pair":"\\ud83d\\ude00"}')[0] == (("pair", "\U0001f600"),)
    for blank in ("", " \n\t"):
        with pytest.raises(EOFError):
            first_value(blank)


def test_locating_items() -> None:
    text = '{ "a" : 1 ,\n  "bb": [ {"c":"x"}, {"d" : -1.5e3} ] }'
    _, start, _ = first_value(text)
    at = locate(text, start, [1, 1, 0], name=False)
    assert (token_at(text, at), position(text, start, at)) == ("-1.5e3", "line 2:29")
    at = locate(text, start, [1, 1, 0], name=True)
    assert (token_at(text, at), position(text, start, at)) == ('"d"', "line 2:23")
    assert token_at(text, locate(text, start, [1], name=False)) == "["
    assert token_at(text, locate(text, start, [], name=False)) == "{"


def test_splitting_a_stream_at_any_byte() -> None:
    values = [b'{"a":"}{\\"\\\\"}', b" {}", b'\n{"b":[{"c":[]}]}']
    stream = b"".join(values)
    for cut in range(len(stream) + 1):
        splitter = ValueSplitter()
        found = splitter.feed(stream[:cut]) + splitter.feed(stream[cut:])
        assert found == values, cut
        assert splitter.rest() == b"" and splitter.size == 0
    splitter = ValueSplitter()
    assert [value for byte in stream for value in splitter.feed(bytes((byte,)))] == values


def test_splitting_what_is_no_object() -> None:
    assert ValueSplitter().feed(b"{} nonsense {}") == [b"{}", b" nonsense {}"]
    splitter = ValueSplitter()
    assert splitter.feed(b'{"a":') == []
    assert splitter.rest() == b'{"a":' and splitter.size == 5
    assert ValueSplitter().feed(b"]") == [b"]"]


def test_escapes_beside_a_surrogate_pair_are_not_looked_at_one_by_one() -> None:
    text = '"' + "\\n" * 10_000 + '\\ud83d\\ude00"'
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        value = first_value(text)[0]
    finally:
        sys.setprofile(None)
    assert value == "\n" * 10_000 + "\U0001f600"
    assert calls < 100
