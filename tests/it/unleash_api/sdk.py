"""Unleash's SDK for Python: `sdk.py URL TOKEN INTERVAL FLAG…` prints a line of JSON whenever its flags change.

It ends when its input does.
"""

import json
import sys
import tempfile
import threading
import time

from UnleashClient import UnleashClient
from UnleashClient.cache import FileCache

URL, TOKEN, INTERVAL, *FLAGS = sys.argv[1:]


def main():
    client = UnleashClient(
        url=URL,
        app_name="python",
        custom_headers={"Authorization": TOKEN},
        refresh_interval=int(INTERVAL),
        refresh_jitter=0,
        disable_metrics=True,
        cache=FileCache("python", directory=tempfile.mkdtemp()),
    )
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    client.initialize_client()
    before = None
    while not ended.is_set():
        flags = {flag: client.is_enabled(flag, {"userId": "user-1"}) for flag in FLAGS}
        if flags != before:
            print(json.dumps({"sdk": "python", "flags": flags}), flush=True)
        before = flags
        time.sleep(0.02)
    client.destroy()


main()
