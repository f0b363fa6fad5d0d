"""What a service is asked to see whether it is ready. Each answers True or False at once, and never raises for a refusal."""

import socket
import struct
import subprocess
import urllib.error
import urllib.request

TIMEOUT_S = 2


def kafka(port):
    """Whether the broker lists itself in its metadata: only then can clients work with it."""
    # Metadata, version 1, correlation id 1, no client id, an empty list of topics.
    request = struct.pack(">hhihi", 3, 1, 1, -1, 0)
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.sendall(struct.pack(">i", len(request)) + request)
            head = connection.recv(12, socket.MSG_WAITALL)
    except OSError:
        return False
    # Size, correlation id, number of brokers.
    return len(head) == 12 and struct.unpack(">iii", head)[2] > 0


def redis(port):
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.sendall(b"PING\r\n")
            return connection.recv(7, socket.MSG_WAITALL) == b"+PONG\r\n"
    except OSError:
        return False


def postgres(port, pg_isready):
    answer = subprocess.run(
        [pg_isready, "-q", "-h", "127.0.0.1", "-p", str(port), "-d", "postgres", "-t", str(TIMEOUT_S)], check=False)
    return answer.returncode == 0


def http(port, path):
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"http://127.0.0.1:{port}{path}", timeout=TIMEOUT_S) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False
