"""Makes context_hash.json: python3 context_hash.py > context_hash.json

`context` is the JSON text as a request has it, `hashed` the text whose SHA-256 the hash is taken from. A service in Python
that writes its contexts with `json.dumps` and has neither lists nor objects in them hashes
`json.dumps(context, sort_keys=True)`; `hashed_text` is for everybody else.
"""

import hashlib
import json

CONTEXTS = [
    "{}", '{"region": "us-west", "subscription_tier": "premium"}', '{"subscription_tier":"premium","region":"us-west"}',
    ' { "a" : 1 , "b" : [ 1 , 2 ] } ', '{"b": {"d": 1, "c": 2}, "a": [{"z": 1, "y": null}]}', '{"a": true, "b": false, "c": null}',
    '{"n": 5}', '{"n": 5.0}', '{"n": 5.50}', '{"n": -0}', '{"n": -0.0}', '{"n": 0.1}', '{"n": 1e15}', '{"n": 1e16}', '{"n": 1E+16}',
    '{"n": 100.0}', '{"n": 1e2}', '{"n": 0}', '{"n": 1e+16}',
    '{"n": 123456789012345678}', '{"n": 12345678901234567890123}', '{"n": 1234567890123456789.0}', '{"n": 0.0001}', '{"n": 0.00001}',
    '{"n": 1.5e-7}', '{"n": 5e-324}', '{"n": 1.7976931348623157e308}', '{"n": 1e400}', '{"n": -1e400}', '{"n": 9007199254740993}',
    '{"n": 9007199254740993.0}', '{"n": 0.30000000000000004}', '{"n": 1e22}', '{"n": 1e23}', '{"n": 2.5e+3}', '{"n": 1673378716713307.25}', '{"n": 1673378716713307.75}',
    '{"t": "\\u00e9"}', '{"t": "é"}', '{"t": "日本"}', '{"t": "😀"}', '{"t": "\\ud83d\\ude00"}', '{"t": "\\"\\\\\\/\\b\\f\\n\\r\\t"}',
    '{"t": "\\u0000\\u001f\\u007f\\u0080\\u2028"}', '{"é": 1, "z": 2, "Z": 3, "": 4, "😀": 5, "\\uffff": 6}', '{"a": 1, "a": 2}',
    '{"plan": "gold", "plan": null}', '{"plan": null, "plan": "gold"}', '{"n": 1, "n": 1e0}', '{"n": 1e0, "n": 1}',
    '{"a": {"b": 1, "b": 2}, "a": {"b": 3}}', '{"a": {"b": 1, "b": 2}}', '{"e": [], "o": {}}', '{"user_id": "u", "sessionId": "s"}', '{"session_id": "mine"}',
    '{"session_id": 1e2}', '{"o": {"a": 1, "b": 2}}', '{"o": {"b": 2, "a": 1}}', '{"l": [1, 2.0, "x"]}', '{"l": [1e0]}', '{"l": ["é"]}', '{"l": ["\\u00e9"]}',
]


def members(text):
    """Names and JSON texts of an object's members, in their order."""
    decoder, at = json.JSONDecoder(), text.index("{") + 1
    skip = lambda at: at + len(text[at:]) - len(text[at:].lstrip(" \n\r\t"))
    while text[at := skip(at)] != "}":
        name, at = decoder.raw_decode(text, skip(at + (text[at] == ",")))
        start = skip(skip(at) + 1)
        _, at = decoder.raw_decode(text, start)
        yield name, text[start:at]


def compact(text):
    """JSON without white space between its tokens, all else as it is written."""
    out, quoted, escaped = [], False, False
    for c in text:
        if quoted:
            quoted = escaped or c != '"'
            escaped = c == "\\" and not escaped
        elif c in " \n\r\t":
            continue
        else:
            quoted = c == '"'
        out.append(c)
    return "".join(out)


def hashed_text(text, session):
    context, otherwise = json.loads(text), {}
    for name, raw in members(text):
        value = json.loads(raw)
        seen = compact(raw)
        otherwise.pop(name, None)
        if value is None or isinstance(value, (bool, str)):
            continue
        if seen != json.dumps(value, sort_keys=True, separators=(",", ":")):
            otherwise[name] = seen
    if session is not None:
        context["session_id"] = session
        otherwise.pop("session_id", None)
    hashed = json.dumps(context, sort_keys=True)
    return hashed + "\n" + json.dumps(otherwise, sort_keys=True) if otherwise else hashed


if __name__ == "__main__":
    vectors = []
    for text in CONTEXTS:
        for session in (None, "s-9"):
            hashed = hashed_text(text, session)
            vectors.append({"context": text, "session_id": session, "hashed": hashed,
                            "context_hash": hashlib.sha256(hashed.encode()).hexdigest()[:16]})
    print("[\n" + ",\n".join(json.dumps(vector) for vector in vectors) + "\n]")
