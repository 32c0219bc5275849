"""A worker that serves nothing: it does what the files in its bundle's folder tell.

crash: end before it is warm; hold: be warm when it is gone; other: have another release; release: have
this one; stuck: let the event loop hang once it serves; deaf: do not stop when asked. Of another
release's folder: late: answer when it is gone; unfit: refuse it; fatal: end of it, one worker for each `fatal`, `fatal2`; mute: say
nothing. What it took and dropped it tells in files `take-PID` and `drop-PID` of that folder; that it was
told to serve before it had what it was offered, in `early-PID`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from pathlib import Path

from server.supervisor.link import BEAT_S, Link, Orders, Word

CRASHED = 3


async def work(line: socket.socket, orders: Orders) -> int:
    folder = orders.settings.bundle
    said: set[Word] = set()
    offered: list[Path] = []
    answers: list[asyncio.Task[None]] = []

    async def answer(number: str, release: Path) -> None:
        while (release / "late").exists():
            await asyncio.sleep(BEAT_S / 10)
        if (release / "unfit").exists():
            link.tell(Word.UNFIT, f"{number} it is unfit")
        elif not (release / "mute").exists():
            link.tell(Word.READY, number)
            (release / f"ready-{os.getpid()}").touch()

    def heard(word: Word, text: str) -> None:
        said.add(word)
        if word is Word.PREPARE:
            number, _, path = text.partition(" ")
            offered.append(Path(path))
            for fatal in ("fatal", "fatal2"):
                if (offered[-1] / fatal).exists():
                    (offered[-1] / fatal).unlink()
                    os._exit(CRASHED)
            answers.append(asyncio.create_task(answer(number, offered[-1])))
        elif word is Word.SERVE and offered and Word.TAKE not in said:
            (offered[-1] / f"early-{os.getpid()}").touch()
        elif word in (Word.TAKE, Word.DROP):
            (offered[-1] / f"{word}-{os.getpid()}").touch()

    link = await Link.over(line, heard)
    deaf = (folder / "deaf").exists()
    if (folder / "crash").exists():
        return CRASHED
    while (folder / "hold").exists():
        await asyncio.sleep(BEAT_S / 10)
    release = folder / "release"
    ordinary = "other" if (folder / "other").exists() else "first"
    link.tell(Word.WARM, release.read_text() if release.exists() else ordinary)
    serving = False
    while not link.ended.is_set() and (deaf or Word.STOP not in said):
        link.beat()
        if Word.SERVE in said and not serving:
            serving = True
            # Looked up before anybody hears of it: the file goes as soon as it serves.
            stuck = (folder / "stuck").exists()
            link.tell(Word.SERVING)
            if stuck:
                time.sleep(60)
        await asyncio.sleep(BEAT_S / 10)
    return 0


if __name__ == "__main__":
    end = socket.socket(fileno=int(sys.argv[1]))
    sys.exit(asyncio.run(work(end, Orders.receive(end))))
