"""Makes context_hash.json: python3 context_hash.py > context_hash.json

`context` is the JSON text as a request has it; a service in Python hashes `json.dumps` of the same.
"""

import hashlib
import json

CONTEXTS = [
    "{}", '{"region": "us-west", "subscription_tier": "premium"}', '{"subscription_tier":"premium","region":"us-west"}',
    ' { "a" : 1 , "b" : [ 1 , 2 ] } ', '{"b": {"d": 1, "c": 2}, "a": [{"z": 1, "y": null}]}', '{"a": true, "b": false, "c": null}',
    '{"n": 5}', '{"n": 5.0}', '{"n": 5.50}', '{"n": -0}', '{"n": -0.0}', '{"n": 0.1}', '{"n": 1e15}', '{"n": 1e16}', '{"n": 1E+16}',
    '{"n": 123456789012345678}', '{"n": 12345678901234567890123}', '{"n": 1234567890123456789.0}', '{"n": 0.0001}', '{"n": 0.00001}',
    '{"n": 1.5e-7}', '{"n": 5e-324}', '{"n": 1.7976931348623157e308}', '{"n": 1e400}', '{"n": -1e400}', '{"n": 9007199254740993}',
    '{"n": 9007199254740993.0}', '{"n": 0.30000000000000004}', '{"n": 1e22}', '{"n": 1e23}', '{"n": 2.5e+3}', '{"n": 1673378716713307.25}', '{"n": 1673378716713307.75}',
    '{"t": "\\u00e9"}', '{"t": "é"}', '{"t": "日本"}', '{"t": "😀"}', '{"t": "\\ud83d\\ude00"}', '{"t": "\\"\\\\\\/\\b\\f\\n\\r\\t"}',
    '{"t": "\\u0000\\u001f\\u007f\\u0080\\u2028"}', '{"é": 1, "z": 2, "Z": 3, "": 4, "😀": 5, "\\uffff": 6}', '{"a": 1, "a": 2}',
    '{"a": {"b": 1, "b": 2}, "a": {"b": 3}}', '{"e": [], "o": {}}', '{"user_id": "u", "sessionId": "s"}', '{"session_id": "mine"}',
]

vectors = []
for text in CONTEXTS:
    for session in (None, "s-9"):
        context = json.loads(text)
        if session is not None:
            context["session_id"] = session
        dumps = json.dumps(context, sort_keys=True)
        vectors.append({"context": text, "session_id": session, "dumps": dumps,
                        "context_hash": hashlib.sha256(dumps.encode()).hexdigest()[:16]})
print("[\n" + ",\n".join(json.dumps(vector) for vector in vectors) + "\n]")
