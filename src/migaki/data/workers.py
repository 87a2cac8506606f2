"""Processes that read files ahead of whoever is going to ask for them.

A worker is a fresh interpreter that knows nothing of this process but its import path: neither threads nor locks are taken
over, the user's script is not run again, and nothing is inherited but two pipes. When this process ends, however it ends,
the pipes close and the workers end. They compute functions of their argument alone, and results are asked for by key, so how
many workers there are changes neither what comes out nor in which order.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Any

from migaki.core.errors import RunError

__all__ = ["Ahead", "Workers", "at_hand", "in_order", "serve", "workers"]

_START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from migaki.data.workers import serve; serve()"
)
_PIPE_BYTES, _SET_PIPE_SIZE = 1 << 20, 1031
"""Asked of Linux (F_SETPIPE_SZ): an image fits at once, and the worker goes on to the next one."""
_LEAVES_S = 5.0

_at_hand: ContextVar[Workers | None] = ContextVar("workers", default=None)


class Workers:
    """So many processes, started when they get their first work."""

    def __init__(self, n: int) -> None:
        self._n, self._started = n, list[_Worker]()

    def __len__(self) -> int:
        return self._n

    def submit(self, function: Callable[[Any], Any], item: Any) -> Future[Any]:
        """The result to come of `function(item)`, both of which can be pickled. What it raises is raised by `result()`.

        Raises:
            RunError: a worker has ended by itself.
        """
        if not self._started:
            self._started = [_Worker() for _ in range(self._n)]
        return min(self._started, key=lambda worker: len(worker.pending)).submit(function, item)

    def process_ids(self) -> list[int]:
        """Of those that were started."""
        return [worker.process.pid for worker in self._started]

    def close(self) -> None:
        """Let them end, whatever they were at."""
        for worker in self._started:
            worker.leave()
        for worker in self._started:
            worker.gone()
        self._started = []


class _Worker:
    """One process, and the thread that takes its answers: it must never wait for this process to look."""

    def __init__(self) -> None:
        self.pending: deque[tuple[Future[Any], Any]] = deque()
        """What it was asked for, with the item, in order; it answers in the same order."""
        self._functions: list[Callable[[Any], Any]] = []
        self._leaving = False
        self.process = subprocess.Popen(  # noqa: S603 - this very interpreter, with words of our own
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            # Ctrl-C is for this process, which ends the work in its own way.
            process_group=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._asks, self._answers = self.process.stdin, self.process.stdout
        _widen(self._answers)
        self._thread = threading.Thread(target=self._listen, name="answers of a worker", daemon=True)
        self._thread.start()
        self._send(sys.path)

    def submit(self, function: Callable[[Any], Any], item: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if not any(known is function for known in self._functions):
            self._functions.append(function)
            self._send(function)
        self.pending.append((future, item))
        self._send((next(i for i, known in enumerate(self._functions) if known is function), item))
        return future

    def _send(self, message: Any) -> None:
        try:
            pickle.dump(message, self._asks, protocol=5)
            self._asks.flush()
        except BrokenPipeError:
            self._thread.join()
            raise RunError(self._ended()) from None

    def _listen(self) -> None:
        while (frames := _received(self._answers)) is not None:
            well, value = pickle.loads(frames[0], buffers=frames[1:])  # noqa: S301 - of our own process
            future, _ = self.pending.popleft()
            if future.set_running_or_notify_cancel():
                future.set_result(value) if well else future.set_exception(value)
        if not self._leaving:
            said = self._ended()
            while self.pending:
                future, _ = self.pending.popleft()
                if future.set_running_or_notify_cancel():
                    future.set_exception(RunError(said))

    def _ended(self) -> str:
        code = self.process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        at = f" while it read {_named(self.pending[0][1])}" if self.pending else ""
        return (
            f"One of the processes that read files {how}{at}, so the rows that follow could not be read. Mostly the memory does "
            "not suffice: lower training.workers, or set it to 0, and look at the file; what was done is kept, and the same "
            "command goes on."
        )

    def leave(self) -> None:
        self._leaving = True
        with contextlib.suppress(BrokenPipeError):
            self._asks.close()

    def gone(self) -> None:
        try:
            self.process.wait(_LEAVES_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._thread.join()
        self._answers.close()


class Ahead:
    """Results for items that are going to be asked for, computed before they are.

    At most `most` of them wait or are being computed. Asked for in another order, or not at all, none is wrong: what is not
    among them is left to who asks.
    """

    def __init__(
        self, pool: Workers, function: Callable[[Any], Any], items: Iterable[tuple[Hashable, Any]], most: int
    ) -> None:
        """`items`: what stands for each of them, and what the function is given; looked at as far as there is room."""
        self._pool, self._function, self._items, self._most = pool, function, iter(items), most
        self._coming: dict[Hashable, deque[Future[Any]]] = {}
        self._n = 0
        self._fill()

    def _fill(self) -> None:
        while self._n < self._most and (next_one := next(self._items, None)) is not None:
            key, item = next_one
            self._coming.setdefault(key, deque()).append(self._pool.submit(self._function, item))
            self._n += 1

    def take(self, key: Hashable) -> Future[Any] | None:
        """The result of this key, once; None where it is not expected now."""
        if key not in self._coming:
            return None
        futures = self._coming[key]
        future = futures.popleft()
        if not futures:
            del self._coming[key]
        self._n -= 1
        self._fill()
        return future

    def close(self) -> None:
        """Forget what nobody asked for."""
        for futures in self._coming.values():
            for future in futures:
                future.cancel()
        self._coming, self._n, self._items = {}, 0, iter(())


@contextmanager
def workers(n: int) -> Iterator[None]:
    """Inside, so many processes are at hand; 0: none, and everybody reads for himself."""
    pool = Workers(n) if n else None
    token = _at_hand.set(pool)
    try:
        yield
    finally:
        _at_hand.reset(token)
        if pool:
            pool.close()


def at_hand() -> Workers | None:
    """Those of the innermost `workers`, None where there are none."""
    return _at_hand.get()


def in_order(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """`function(item)` of each item in order, computed ahead where workers are at hand, two for each of them."""
    pool = at_hand()
    if pool is None:
        yield from map(function, items)
        return
    coming: deque[Future[Any]] = deque()
    try:
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) > 2 * len(pool):
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        for future in coming:
            future.cancel()


def serve() -> None:
    """What a worker does, until nobody can ask any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asks = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    # What a library prints must not stand between the answers.
    os.dup2(2, 1)
    functions: list[Callable[[Any], Any]] = []
    with contextlib.suppress(BrokenPipeError), answers:
        while True:
            try:
                message = pickle.load(asks)  # noqa: S301 - of the process that started this one
            except (EOFError, pickle.UnpicklingError):
                return  # it closed its end, or died in the middle of a word
            if callable(message):
                functions.append(message)
            else:
                _send_answer(answers, *_answered(functions[message[0]], message[1]))


def _answered(function: Callable[[Any], Any], item: Any) -> tuple[bool, Any]:
    try:
        return True, function(item)
    except Exception as error:
        try:
            # Only what can be made again from its message travels as it is.
            return False, pickle.loads(pickle.dumps(error))  # noqa: S301
        except Exception:
            return False, RuntimeError(f"{type(error).__name__}: {error}")


def _send_answer(out: IO[bytes], well: bool, value: Any) -> None:
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps((well, value), protocol=5, buffer_callback=buffers.append)
    frames = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    out.write(struct.pack(f"<I{len(frames)}Q", len(frames), *(frame.nbytes for frame in frames)))
    for frame in frames:
        out.write(frame)
    out.flush()


def _received(source: IO[bytes]) -> list[bytearray] | None:
    """The frames of one answer; None where the other side is gone."""
    if (count := _exactly(source, 4)) is None:
        return None
    (n,) = struct.unpack("<I", count)
    if (sizes := _exactly(source, 8 * n)) is None:
        return None
    frames = [_exactly(source, size) for size in struct.unpack(f"<{n}Q", sizes)]
    whole = [frame for frame in frames if frame is not None]
    return whole if len(whole) == n else None


def _exactly(source: IO[bytes], size: int) -> bytearray | None:
    found = bytearray(size)
    rest = memoryview(found)
    while rest.nbytes:
        read = source.readinto(rest)  # type: ignore[attr-defined]
        if not read:
            return None
        rest = rest[read:]
    return found


def _widen(pipe: IO[bytes]) -> None:
    """As far as the system allows it."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe.fileno(), _SET_PIPE_SIZE, _PIPE_BYTES)


def _named(item: Any) -> str:
    return str(getattr(item, "path", item))
