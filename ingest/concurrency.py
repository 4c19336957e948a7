"""How does blocking work run aside of the loop?

Some of it must never hold up the end of a recording: `asyncio.to_thread` is joined when the loop closes, and a name
lookup or an upload that hangs would hold up Ctrl-C. A daemon thread is not; only what may be cut off anywhere without
harm runs in one. Other work must never outlive whoever waits for it, because what it uses is closed next.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


async def run_whole(work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """Await blocking work in a thread; a task that is cancelled meanwhile ends when the work has, and not before.

    A lake that was closed under a running commit took the whole process with it.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **more))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.gather(running, return_exceptions=True)
        raise


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


def now() -> float:
    """Return the running loop's time, in seconds."""
    return asyncio.get_running_loop().time()
