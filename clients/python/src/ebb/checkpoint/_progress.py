"""A progress bar, where tqdm is installed and somebody asks for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable


@contextmanager
def progress_bar(is_wanted: bool, step: int, total_bytes: int) -> Iterator[Callable[[int], None] | None]:
    """Gives what is to be called with bytes done, from any thread; None where no bar is shown."""
    if not is_wanted:
        yield None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield None
        return
    lock = threading.Lock()
    # Not shown for what is done before anybody has read it.
    with tqdm(total=total_bytes, desc=f"step {step}", unit="B", unit_scale=True, unit_divisor=1024, delay=0.5) as bar:

        def tick(done: int) -> None:
            with lock:
                bar.update(min(done, total_bytes - bar.n))

        yield tick
