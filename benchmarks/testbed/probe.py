"""What runs on a host while a test bed checks itself: a busy loop, and transfers by plain sockets.

A script of the standard library. It says `ready`, waits for a line, then measures and prints what
it got as the last word of its output.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress

NEIGHBOUR_PORT = 7071
CHUNK_BYTES = 1 << 16
WARM_UP_S = 0.3  # in which the saved-up burst and the slow start of TCP pass
PATIENCE_S = 10.0
SLICE_S = 0.01


def spin(seconds: float) -> float:
    """CPU-seconds per second that a busy loop gets, resting by COTERIE_DUTY where that is given."""
    duty = float(os.environ.get("COTERIE_DUTY", "1"))
    print("ready", flush=True)
    sys.stdin.readline()
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    while time.perf_counter() - start_s < seconds:
        slice_s = time.perf_counter()
        while time.perf_counter() - slice_s < SLICE_S:
            pass
        if duty < 1:
            time.sleep((time.perf_counter() - slice_s) * (1 - duty) / duty)
    return (time.process_time() - start_cpu_s) / (time.perf_counter() - start_s)


def transfer(here: str, there: str, port: int, seconds: float) -> float:
    """Send to the bridge, then receive from it; Mbit/s received.

    The line that starts it names a neighbour, which has to be in reach. Raises OSError if not.
    """
    with socket.create_server((here, NEIGHBOUR_PORT)):
        print("ready", flush=True)
        neighbour = sys.stdin.readline().strip()
        socket.create_connection((neighbour, NEIGHBOUR_PORT), PATIENCE_S, (here, 0)).close()
        with socket.create_connection((there, port), PATIENCE_S, (here, 0)) as up:
            up.sendall(b"\0")
            send(up)
        with socket.create_connection((there, port), PATIENCE_S, (here, 0)) as down:
            down.sendall(b"\1")
            rate = receive(down, seconds)
        sys.stdin.readline()  # the neighbour may still want to find us here
    return rate


def send(to: socket.socket) -> None:
    """Send until the other side hangs up."""
    chunk = bytes(CHUNK_BYTES)
    with suppress(ConnectionError):
        while True:
            to.sendall(chunk)


def receive(source: socket.socket, seconds: float) -> float:
    """Mbit/s of payload over `seconds`, once the warm-up has passed. Raises TimeoutError."""
    buffer = bytearray(CHUNK_BYTES)
    num_bytes, start_s = 0, time.perf_counter()
    warm_s = start_s + WARM_UP_S
    while True:
        got = source.recv_into(buffer)
        now_s = time.perf_counter()
        if now_s < warm_s:
            start_s = now_s
            continue
        num_bytes += got
        if now_s - start_s >= seconds or not got:
            return num_bytes * 8 / 1e6 / (now_s - start_s)


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "spin":
        print(spin(float(words[0])))
    else:
        print(transfer(words[0], words[1], int(words[2]), float(words[3])))
