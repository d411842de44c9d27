"""How long a connection waits for a verdict: alternately to a destination nobody asked for yet, and to a known one.

Run as `python -I -S verdicts.py PORT RATE SECONDS`. The subject refuses every destination in 127.2.0.0/15, so a
connection ends with its verdict: accept, look-up, upcall on a miss, close. Times count from when a connection was due.
Prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import socket
import sys
import time

port, rate, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
KNOWN = "127.3.0.1"
clock = time.perf_counter


def once(address: str, due: float) -> float:
    sock = socket.socket()
    sock.settimeout(5)
    try:
        sock.connect((address, port))
        sock.recv(1)
    except ConnectionError:
        pass
    finally:
        sock.close()
    return (clock() - due) * 1e6


gc.disable()
once(KNOWN, clock())
hit, miss = [], []
start = clock()
step = 0.5 / rate
for number in range(int(rate * seconds * 2)):
    due = start + number * step
    while (wait := due - clock()) > 0:
        time.sleep(wait)
    if number % 2:
        hit.append(round(once(KNOWN, due), 1))
    else:
        index = number // 2
        miss.append(round(once(f"127.2.{index >> 8 & 255}.{index & 255}", due), 1))
print(json.dumps({"hit_us": hit, "miss_us": miss}))
