"""Helpers for threads, cancellation and stop events on the event loop.

Blocking work runs in one of two kinds of thread. `run_in_thread` is for work whose resources are closed next, such as
a commit to the lake: the caller never returns before the work has ended. `run_in_daemon_thread` is for work that may
hang, such as a name lookup or an upload: `asyncio.to_thread` is joined when the loop closes and would delay Ctrl-C,
whereas a daemon thread is cut off. Only work that can be cut off anywhere without harm runs there.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


async def run_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Await blocking work in a thread; if the task is cancelled meanwhile, it ends only after the work has ended.

    Closing a lake under a running commit once crashed the whole process.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.gather(running, return_exceptions=True)
        raise


async def run_in_daemon_thread(work: Callable[[], T], *, name: str) -> T:
    """Await blocking work in a daemon thread called `name`; an exception in it is raised here."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def deliver(put: Callable[[Any], None], value: object) -> None:
        if not done.done():  # the awaiting task may have been cancelled
            put(value)

    def hand_over(put: Callable[[Any], None], value: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, put, value)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # raised again where the work is awaited
            hand_over(done.set_exception, error)
        else:
            hand_over(done.set_result, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done


async def run_unless(
    stop: asyncio.Event, work: Coroutine[Any, Any, T], *, patience_s: float = 0.0
) -> T | None:
    """Return the result of `work`, or None if `stop` is set first; then `work` is cancelled and has ended.

    Args:
        stop: ends the wait; where it is set already, `work` is not waited for at all.
        work: raises its own errors here.
        patience_s: `work` may still finish within this time after `stop` is set.
    """
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        if not stop.is_set():
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if patience_s and not task.done():
                await asyncio.wait({task}, timeout=patience_s)
        return await task if task.done() else None
    finally:
        for pending in (task, stopped):
            pending.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Wait until `event` is set, at most so long; return whether it is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def now() -> float:
    """Return the running loop's time, in seconds."""
    return asyncio.get_running_loop().time()
