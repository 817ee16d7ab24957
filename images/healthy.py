"""Exit with 0 if a process of the fleet is well: the health check of the images.

    python3 -IS healthy.py HOST:PORT        somebody listens there
    python3 -IS healthy.py HOST:PORT/PATH   the page answers with 200; otherwise it is printed

It needs nothing but sockets: a check that loads libraries is what a busy small board fails first.
"""

from __future__ import annotations

import socket
import sys

TIMEOUT = 15.0


def check(target: str) -> bool:
    """Whether the target answers.

    Raises
    ------
    OSError: nobody listens there.
    """
    address, slash, path = target.partition("/")
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as connection:
        if not slash:
            return True
        connection.sendall(f"GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        status, _, rest = connection.makefile("rb").read().partition(b"\r\n")
        if b" 200 " in status:
            return True
        print(rest.partition(b"\r\n\r\n")[2].decode(errors="replace").strip() or status.decode())
        return False


if __name__ == "__main__":
    sys.exit(0 if check(sys.argv[1]) else 1)
