"""How does blocking work run aside of the loop, so that the end of a recording never waits for it?

`asyncio.to_thread` is joined when the loop closes: a name lookup or an upload that hangs would hold up Ctrl-C. A
daemon thread is not. So only work that may be cut off anywhere without harm belongs here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def run_aside(work: Callable[[], T], *, name: str) -> T:
    """Await blocking work in a daemon thread called `name`; what it raises is raised here."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def deliver(put: Callable[[Any], None], value: object) -> None:
        if not done.done():  # the awaiting task may have been cancelled
            put(value)

    def tell(put: Callable[[Any], None], value: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, put, value)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # raised again where the work is awaited
            tell(done.set_exception, error)
        else:
            tell(done.set_result, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
