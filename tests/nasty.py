"""Names that somebody else chose: to break a page of metrics, a document, a page or a terminal."""

#: What turns, hides or takes over what is shown, and letters that not all encodings have.
NAMES = {
    "controls": "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f",
    "null": "a\0b",
    "a line": "a\nb\r\nc\x0bd\x85e\u2028f",
    "a colour": "\x1b[31mred\x1b[0m\x9b1m",
    "a title": "\x1b]0;owned\x07\x1b]8;;http://evil\x1b\\here",
    "half a letter": "a\udcff\ud83dz",
    "the other way round": "moc.live\u202eexample.com\u2066\u200f",
    "nothing at all": "\u200b\u200d\ufeff\u2060",
    "length": "a" * 100_000,
    "small pictures": "\N{PILE OF POO}\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "quotes": "a'b\"c`d\\",
    "markup": "</script><img src=x onerror=alert(1)>&lt;",
    "templates": "{{ $labels }}${x}{0}%s%(x)s%n",
    "a comment": "# TYPE x counter",
    "labels": '"} 5\nx{y="',
    "letters": "m\xfcnchen.\u4e2d\u6587.\u05d0",
}
