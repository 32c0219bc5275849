"""A worker that serves nothing: it does what the files in its bundle's folder tell.

crash: end before it is warm; other: have another release; stuck: let the event loop hang once it
serves; deaf: do not stop when asked.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time

from server.supervisor.link import BEAT_S, Link, Orders, Word

CRASHED = 3


async def work(line: socket.socket, orders: Orders) -> int:
    folder = orders.settings.bundle
    said: set[Word] = set()
    link = await Link.over(line, lambda word, text: said.add(word))
    deaf = (folder / "deaf").exists()
    if (folder / "crash").exists():
        return CRASHED
    link.tell(Word.WARM, "other" if (folder / "other").exists() else "first")
    serving = False
    while not link.ended.is_set() and (deaf or Word.STOP not in said):
        link.beat()
        if Word.SERVE in said and not serving:
            serving = True
            link.tell(Word.SERVING)
            if (folder / "stuck").exists():
                time.sleep(60)
        await asyncio.sleep(BEAT_S / 10)
    return 0


if __name__ == "__main__":
    end = socket.socket(fileno=int(sys.argv[1]))
    sys.exit(asyncio.run(work(end, Orders.receive(end))))
