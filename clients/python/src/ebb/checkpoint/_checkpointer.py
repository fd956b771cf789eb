"""Saves and restores the state of a training job.

I1  `save` returns when the state may change: all of it is copied. Everything else happens on one background thread, in
    the order of the saves. Where there are no threads any more, at the end of the interpreter, `save` does it all.
I2  A failure there is raised by the next call that waits or saves, once; one that no call raised is told on standard
    error when the interpreter ends. No snapshot is lost without a word.
I3  What is restored matches its digests, or an error says what does not, and which step to go back to.
I4  A save that is interrupted, at whatever step of the program, holds nothing: what it asks the node for is known to it
    before it asks (_image_writer.py), and is given up.
I5  A signal handler that saves while its thread is saving has its save made when the other one has ended, before that
    returns. Whatever else it calls in between is refused at once (_turns.py).
I6  A forked child works with a copy of its own: nothing there waits for a thread or a lock of the parent. What it saves
    has sessions of its own, of the same job.
I7  Each save of a process has a pair of step and session that no other has, chosen before the node is asked. A commit
    says which image it is of: where another process has the same pair, one of the two is told, and nothing is mixed.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
import uuid
import weakref
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_all
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, TypeVar

from .._client import Client
from .._locks import new_lock
from .._staged import StagedFile
from ..errors import (
    AlreadyCommittedError,
    BusyError,
    DataCorruptError,
    DataLostError,
    NotFoundError,
    RequestInvalidError,
    TierFullError,
)
from . import _arrays, _tree
from ._api import COMMIT_WAIT_S, Plan, PlannedPart, RunApi, Snapshot, Step, assert_durability, parse_step
from ._arrays import Spec
from ._copy import Copier
from ._directory import directory, remove_left, restore_directory, save_directory
from ._image_writer import ImageWriter, is_rank, lay_out, part_of_rank
from ._policy import policy_json
from ._restore import OUTDATED, PartSource
from ._sharing import assert_apart, share
from ._slots import Buffers, SlotMappings
from ._states import OpenSnapshot, Restored, restore_state
from ._tree_text import encode
from ._turns import Turns

T = TypeVar("T")
_log = logging.getLogger("ebb.checkpoint")
#: Forks of one process that save at the same time have different numbers, in all likelihood; the node tells the others.
_FORK_NUMBERS = 1_000_000
#: A plan is out of date when its image is given up, since it is stored, or when a newer snapshot took its place. The
#: next plan says where the bytes are now.
PLANS_MAX = 4


class Save:
    """A snapshot on its way. `skipped`: the run leaves it out, because storing is behind."""

    def __init__(self, step: int, done: Future[Snapshot | None] | None, session: str | None = None) -> None:
        self.step = step
        self.session = session
        self.skipped = done is None
        self._done = done

    def result(self, timeout: float | None = None) -> Snapshot | None:
        """Returns when it is committed (to memory); on ranks that do not commit, when their part is handed over.

        Raises what went wrong.
        """
        return None if self._done is None else self._done.result(timeout)

    def then(self, work: Callable[[bool], None]) -> None:
        """Calls it at the end, on the thread that did the rest, with whether the snapshot is committed."""
        if self._done is not None:
            self._done.add_done_callback(lambda done: work(not done.cancelled() and done.exception() is None))

    def await_end(self) -> None:
        """Whatever came of it."""
        if self._done is not None:
            wait_for_all([self._done])

    def done(self) -> bool:
        return self._done is None or self._done.done()

    def tell(self, other: Future[Snapshot | None]) -> None:
        """What comes of this comes of the other."""
        if self._done is None:
            other.set_result(None)
            return

        def copy(done: Future[Snapshot | None]) -> None:
            error = done.exception()
            if error is None:
                other.set_result(done.result())
            else:
                other.set_exception(error)

        self._done.add_done_callback(copy)


class Checkpointer:
    """The checkpoints of one run, for one rank.

    Args:
        client: a client of this node, or where it is (see `ebb.Client`).
        run: the run's name.
        bucket: where it is kept; made (buffered: on disk, then in tier 2) if it is not there.
        rank, world_size: which part this process saves, of how many; from ``torch.distributed`` if that is initialized,
            else 0 of 1. Rank 0 commits.
        session: the same text on all ranks of this life of the job, another one in the next life. Made, and told to the
            other ranks by ``torch.distributed``, unless given, or in ``EBB_CHECKPOINT_SESSION``.
        threads: that copy; default 2, or 4 with 16 processors or more.
        verify: compare what is restored with its digests.
        direct: read what lies in an S3 store alone straight from there, by URLs that the node signs.
        **policy: what the run keeps (``keep_last``, ``keep_every``, ``max_age_s``, ``max_bytes``) and does
            (``slots``, ``behind="wait"|"skip"|"spill"``, ``superseded="store"|"drop"``, ``delta``).

    A state is an array or tensor (NumPy, PyTorch, JAX), a plain value (None, bool, int, float, str, bytes), or dicts,
    lists and tuples of states.
    """

    def __init__(
        self,
        client: Client | str | None = None,
        run: str = "default",
        *,
        bucket: str = "checkpoints",
        rank: int | None = None,
        world_size: int | None = None,
        session: str | None = None,
        threads: int | None = None,
        verify: bool = True,
        direct: bool = True,
        **policy: Any,
    ) -> None:
        change = policy_json(policy)
        found_rank, found_size = _distributed()
        self.rank = found_rank if rank is None else rank
        self.world_size = found_size if world_size is None else world_size
        if not 0 <= self.rank < self.world_size:
            raise RequestInvalidError(f"rank {self.rank} is not in a world of {self.world_size}")
        self.session = session or os.environ.get("EBB_CHECKPOINT_SESSION") or _session(self.world_size)
        self._stack = ExitStack()
        self.client = client if isinstance(client, Client) else self._stack.enter_context(Client(client))
        self.api = RunApi(self.client, bucket, run)
        self.run = run
        self.verify = verify
        self.direct = direct
        self.copier = Copier(threads)
        self.slots = SlotMappings()
        self._lock = new_lock()
        self.turns = Turns(self)
        self._background: ThreadPoolExecutor | None = None
        #: By step, the last that was made last.
        self._saves: dict[int, Save] = {}
        #: Sessions of saves that were begun and are not remembered yet, by thread and step.
        self._sessions: dict[tuple[int, int], str] = {}
        #: The step of the save that was begun last.
        self._last_step = -1
        #: How often the job went back to a step that it had begun to save, or an earlier one.
        self._returns = 0
        self._failure: BaseException | None = None
        self.buffers = Buffers()
        _checkpointers.add(self)
        remove_left()
        if change:
            self.api.put_policy(change)

    @property
    def part(self) -> str:
        return part_of_rank(self.rank)

    # -- saving --------------------------------------------------------------------------------------------------

    def prepare(self, state: Any, slots: int | None = None) -> None:
        """Makes memory ready for snapshots of this size, and maps it, so that the first ones are as fast as all others.

        Takes seconds for gigabytes. What does not fit the node's memory tier beside all else is left out.

        Raises:
            TierFullError: one image can never fit, or the memory is not there.
        """
        text, arrays = _taken_apart(state)
        image_bytes = lay_out(_specs(arrays), len(text)).image_bytes
        self.prepare_bytes(image_bytes, slots)

    def prepare_bytes(self, image_bytes: int, slots: int | None = None) -> None:
        """As `prepare`, where the size of the images is known."""
        self.turns.refuse("prepare")
        bucket, count = self.api.prepare(image_bytes, slots)
        self._map_ahead(bucket, count, image_bytes)

    def save(
        self,
        step: int,
        state: Any,
        *,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = True,
        wait_for_slot_s: float | None = None,
    ) -> Save:
        """Takes a snapshot of the state. Returns as soon as the state may change.

        Args:
            step: a whole number. What is saved later is newer, also where the job went back to a lower step.
            metadata: texts to be kept with it; rank 0's count.
            overwrite: whether a snapshot of this step that is there is replaced.
            wait_for_slot_s: how long to wait when storing is behind and the run's policy says ``wait``; default: while
                something moves on the node, and half an hour when nothing does. A warning says each half minute who
                holds the slots.

        Raises:
            BusyError: no slot in time; the message says who holds them.
            SupersededError: another job saves to the run now.
            TierFullError: it can never fit the node's memory, or the memory is not there.
            UnsupportedValueError, UnsupportedError: a value that checkpoints do not take.
            EbbError: what went wrong with an earlier save (once).
        """

        def work() -> Save:
            return self._save(step, state, metadata, overwrite=overwrite, wait_for_slot_s=wait_for_slot_s)

        if self.turns.is_interrupting("save"):
            return self._remember(self.turns.postpone(step, work))
        try:
            self.raise_failure()
            return work()
        finally:
            self.turns.make_postponed()

    def _save(
        self,
        step: int,
        state: Any,
        metadata: Mapping[str, str] | None,
        *,
        overwrite: bool,
        wait_for_slot_s: float | None,
    ) -> Save:
        text, arrays = _taken_apart(state)
        layout = lay_out(_specs(arrays), len(text))

        def fill(image: ImageWriter) -> None:
            image.write((shard, arrays[shard.name]) for shard in layout.shards[:-1])
            image.put(layout.shards[-1], text)
            image.seal(layout)

        return self.save_image(
            step, layout.image_bytes, fill, metadata, overwrite=overwrite, wait_for_slot_s=wait_for_slot_s
        )

    def save_image(
        self,
        step: int,
        image_bytes: int,
        fill: Callable[[ImageWriter], None],
        metadata: Mapping[str, str] | None,
        *,
        overwrite: bool,
        wait_for_slot_s: float | None = None,
    ) -> Save:
        """Saves what `fill` writes into the image, and seals."""
        opened: list[ImageWriter] = []

        def begin(session: str) -> ImageWriter | None:
            return ImageWriter.open(self, step, session, image_bytes, wait_for_slot_s, opened=opened)

        def hand_over() -> Snapshot | None:
            image = opened[-1]
            return self.hand_over(image, metadata or {}, overwrite) if image.take() else None

        try:
            image = self.start(step, begin)
            if image is None:
                return self.leave_out(step)
            fill(image)
            return self.behind(step, hand_over)
        except BaseException:
            for one in opened:  # I4
                one.give_up()
            raise

    def start(self, step: int, begin: Callable[[str], T]) -> T:
        """Begins a save by the session that it has to have.

        What a job saves after it went back must not meet what it saved before: it is another session of that job. All
        ranks go back alike, so they agree.
        """
        step = parse_step(step)
        with self._lock:  # I7
            self._returns += step <= self._last_step
            self._last_step = step
            returns = self._returns
        while True:
            session = self.session if returns == 0 else f"{self.session}~{returns}"
            try:
                done = begin(session)
                break
            except AlreadyCommittedError as error:
                # An earlier process of this session, or a fork of this one, has saved this step.
                number = self._next_number(error)
                if number <= returns:
                    raise
                returns = self._go_on_from(number, step)
        if done is not None:
            with self._lock:
                self._sessions[threading.get_ident(), step] = session
        return done

    def _next_number(self, error: AlreadyCommittedError) -> int:
        """The number of the session that the node names; 0 when that is none of this job."""
        job, _, number = str(error.details.get("nextSession", "")).partition("~")
        return int(number) if job == self.session and number.isdigit() else 0

    def _go_on_from(self, number: int, step: int) -> int:
        """The number of a session for a step: this one, or a higher one when another thread has it."""
        with self._lock:
            self._returns = max(number, self._returns + 1)
            self._last_step = max(step, self._last_step)
            return self._returns

    def hand_over(self, image: ImageWriter, metadata: Mapping[str, str], overwrite: bool) -> Snapshot | None:
        """Of this rank; rank 0 commits when all have done so."""
        try:
            image.commit()
            if self.rank != 0:
                return None
            parts = [part_of_rank(rank) for rank in range(self.world_size)]
            images = {image.part: image.key}
            return self.api.commit(image.step, image.session, parts, metadata, overwrite, COMMIT_WAIT_S, images=images)
        except BaseException as error:
            if isinstance(error, AlreadyCommittedError) and self.world_size == 1:
                # Another process saves by the same session. What this one saves from here on is kept apart.
                self._go_on_from(self._next_number(error), image.step)
            image.abort()
            raise

    def leave_out(self, step: int) -> Save:
        _log.warning("step %d of run %s is left out: storing is behind", step, self.run)
        return self._remember(Save(step, None))

    def behind(self, step: int, work: Callable[[], Snapshot | None]) -> Save:
        """Does what is left of a save behind the caller's back."""

        def run() -> Snapshot | None:
            try:
                return work()
            except BaseException as error:
                self.note_failure(error)
                raise

        try:
            done = self._executor().submit(run)
        except RuntimeError:  # the interpreter ends, and gives no threads
            done = Future()
            try:
                done.set_result(run())
            except BaseException as error:
                done.set_exception(error)
        return self._remember(Save(step, done))

    def wait(self, step: int | None = None, durability: str = "memory", timeout: float | None = None) -> Snapshot:
        """Returns when the snapshot of a step (default: the last that was saved here) is so durable.

        Args:
            durability: ``"memory"`` (committed), ``"disk"``, or ``"remote"``.
            timeout: seconds; default: as long as it takes. A step that nobody has begun is then not waited for by a
                single rank, and for ten minutes where other ranks may be late with it.

        Raises:
            TimedOutError: it did not happen in time.
            NotFoundError: nobody saves it; it was left out, or was removed since: by which rule of the run.
            SupersededError: it was given up, or another job saves to the run now.
            DataLostError: memory lost it before it was stored.
            EbbError: what went wrong with it.
        """
        self.turns.refuse("wait")
        assert_durability(durability)
        with self._lock:
            chosen = next(reversed(self._saves), None) if step is None else step
            pending = None if chosen is None else self._saves.get(chosen)
        if chosen is None:
            raise NotFoundError(
                f"run {self.run}: this Checkpointer has saved nothing to wait for; name the step, such as latest()"
            )
        if pending is not None and pending.skipped:
            raise NotFoundError(f"step {chosen} of run {self.run} was left out: storing is behind")
        if pending is not None:
            self.settle(pending, timeout)
        session = None if pending is None else pending.session
        return self.api.wait(chosen, durability, timeout, session, is_alone=self.world_size == 1)

    def flush(self) -> None:
        """Waits until all that was saved here is committed.

        Raises:
            EbbError: what went wrong with one of them (once).
        """
        self.turns.refuse("flush")
        with self._lock:
            saves = list(self._saves.values())
        for save in saves:
            save.await_end()
        self.raise_failure()

    def settle(self, save: Save, timeout: float | None = None) -> Snapshot | None:
        """`Save.result`, for a caller that is told here what went wrong: later calls do not raise it again."""
        try:
            return save.result(timeout)
        except BaseException as error:
            with self._lock:
                if self._failure is error:
                    self._failure = None
            raise

    # -- looking -------------------------------------------------------------------------------------------------

    def latest(self) -> int | None:
        """The step of the snapshot that was committed last, and is not marked bad; None when there is none."""
        return next((one.step for one in self.list() if one.bad is None), None)

    def list(self) -> list[Snapshot]:
        """All snapshots, the one that was committed last first: a job that went back has the step of that first."""
        return self.api.list()

    def pin(self, step: int, pinned: bool = True) -> None:
        """Keeps a snapshot whatever the run keeps."""
        self.api.pin(step, pinned)

    def mark_bad(self, step: int, reason: str | None) -> None:
        """`latest` passes it over from now on; with None, no longer."""
        self.api.mark(step, reason)

    def remove(self, step: int) -> None:
        self.api.remove(step)

    # -- restoring -----------------------------------------------------------------------------------------------

    def restore(
        self,
        step: Step = "latest",
        into: Any = None,
        *,
        part: str | None = None,
        allow_partial: bool = False,
        strict: bool | Collection[str] = True,
        progress: bool = False,
    ) -> Restored:
        """Brings a snapshot back.

        Args:
            step: a step, or ``"latest"``.
            into: a state like the one that was saved, whose arrays are overwritten in place; arrays that cannot be
                written (JAX) are made anew, so use the state that is returned. Default: all arrays are made anew.
            part: default: this rank's, or the only one there is.
            allow_partial: take this rank's also when more or fewer ranks saved than there are now. What the others had
                is nowhere then.
            strict: whether `into` must have the same arrays as the snapshot; else those that both have are restored in
                place, and the others are made anew. Or the keys of the state below which it must.
            progress: show a bar (tqdm) when it takes long.

        Raises:
            NotFoundError: no such snapshot.
            RequestInvalidError: `into` has other arrays, shapes or dtypes; all differences are named. Or another number
                of ranks saved it. Nothing was changed.
            UnsupportedError: an array of `into` has no memory of its own, or there is no library here for one that was
                saved. Nothing was changed.
            DataCorruptError, DataLostError: bytes that are not what was saved, and no other copy; `fallback` in
                details is the newest older step. Arrays of `into` may have been overwritten.
        """

        self.turns.refuse("restore")

        def run(plan: Plan) -> Restored:
            planned = self._choose_part(plan, part, allow_partial=allow_partial)
            # What other ranks read, too, the node fetches once for all.
            if planned.name != self.part:
                planned = replace(planned, direct={})
            return restore_state(self, plan, planned, into, strict=strict, progress=progress)

        return self._with_plan(step, run, digests=self.verify, direct=self.direct)

    def open(self, step: Step = "latest", *, part: str | None = None, allow_partial: bool = False) -> OpenSnapshot:
        """A snapshot as read-only arrays over the node's own memory, without a copy, and not compared with digests.

        They stay as they are while one of them is used, whatever happens to the snapshot. One that is no longer in
        memory is read. `part`, `allow_partial`: as `restore` takes them.
        """

        def run(plan: Plan) -> OpenSnapshot:
            with ExitStack() as opened:
                source = PartSource(self.client, self._choose_part(plan, part, allow_partial=allow_partial))
                opened.callback(source.close)
                snapshot = OpenSnapshot(plan.snapshot, source)
                opened.pop_all()
                return snapshot

        return self._with_plan(step, run, digests=False)

    # -- directories ---------------------------------------------------------------------------------------------

    def directory(
        self,
        step: int,
        *,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = True,
        within: str | None = None,
    ) -> AbstractContextManager[Path]:
        """An empty directory for any tool that writes files: leaving ``with`` makes them one snapshot.

        An exception in the block saves nothing. Each rank has a directory of its own.

        Args:
            within: where it is made; default: in memory (``/dev/shm``), else where temporary files go.

        Raises:
            UnsupportedError: there is something that is no file.
            EbbError: as `save`; what went wrong until it was committed too.
        """
        return directory(self, step, metadata, overwrite=overwrite, within=within)

    def save_directory(
        self,
        step: int,
        path: str | os.PathLike[str],
        *,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = True,
    ) -> Save:
        """A snapshot of the files of a directory that is there already. They may change when this returns. Raises as
        `directory`."""
        self.turns.refuse("save_directory")
        return save_directory(self, step, path, metadata, overwrite=overwrite)

    def restore_directory(
        self, step: Step, path: str | os.PathLike[str], *, part: str | None = None, overwrite: bool = False
    ) -> Snapshot:
        """Writes the files of a snapshot to a directory, which appears whole or not at all.

        Args:
            part: default: the files of all ranks.
            overwrite: whether a directory that is not empty is replaced.

        Raises:
            AlreadyExistsError: there is one.
            RequestInvalidError: ranks saved files of one name; say whose.
            UnsupportedError: it is no snapshot of a directory.
            NotFoundError, DataCorruptError, DataLostError: as `restore`. Nothing was changed.
        """

        def run(plan: Plan) -> Snapshot:
            parts = list(plan.parts) if part is None else [self._choose_part(plan, part).name]
            return restore_directory(self, plan, path, parts, overwrite=overwrite)

        return self._with_plan(step, run)

    def close(self) -> None:
        """Waits for what is on its way.

        Raises what went wrong with a save, unless another call has raised it.
        """
        self.turns.refuse("close")
        background, self._background = self._background, None
        if background is not None:
            background.shutdown(wait=True)
        self.copier.close()
        self.slots.close()
        self._stack.close()
        self.raise_failure()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        # What this rank has handed over is committed if the others have, too; they are waited for no longer.
        self.api.is_leaving = True
        try:
            self.close()
        except Exception:
            _log.exception("while the checkpointer was closed")

    # -- async twins ---------------------------------------------------------------------------------------------

    async def save_async(self, step: int, state: Any, **options: Any) -> Save:
        """As `save`; the event loop goes on while the state is copied."""
        return await asyncio.to_thread(lambda: self.save(step, state, **options))

    async def wait_async(self, step: int | None = None, durability: str = "memory") -> Snapshot:
        return await asyncio.to_thread(self.wait, step, durability)

    async def restore_async(self, step: Step = "latest", into: Any = None, **options: Any) -> Restored:
        return await asyncio.to_thread(lambda: self.restore(step, into, **options))

    # -- inside --------------------------------------------------------------------------------------------------

    def _with_plan(self, step: Step, work: Callable[[Plan], T], *, digests: bool = True, direct: bool = False) -> T:
        """Does it by a plan, and by a newer one when that turned out to be out of date."""
        for left in range(PLANS_MAX, 0, -1):
            try:
                plan = self.api.plan(step, digests=digests, direct=direct)
            except DataLostError as error:
                raise (error if isinstance(step, str) else self.with_fallback(error, step)) from error
            try:
                return work(plan)
            except OUTDATED as error:
                if "parts" in error.details:  # no part of that name: another plan says the same
                    raise
                if left == 1:
                    lost = DataLostError(error.message, error.details)
                    raise self.with_fallback(lost, plan.snapshot.step) from error
            except (DataCorruptError, DataLostError) as error:
                raise self.with_fallback(error, plan.snapshot.step) from error
        raise AssertionError("the last plan raised")

    def _map_ahead(self, bucket: str, count: int, image_bytes: int) -> None:
        """Stages as many files at a time as there are slots, maps them, and gives them back: as objects that are
        deleted, for what is just given up is not used again."""
        keys = [f".prepared/{self.session}/{self.rank}/{n}" for n in range(count)]
        staged: list[StagedFile] = []
        try:
            for key in keys:
                try:
                    one = self.client.stage(bucket, key, image_bytes, tier=0)
                except (BusyError, TierFullError):
                    break
                staged.append(one)
                if one.path is not None:
                    self.slots.open(one, image_bytes)
            for one in staged:
                one.commit(1, ack="memory")
        finally:
            for one in staged:
                one.abort()
            for key in keys[: len(staged)]:
                with suppress(NotFoundError):
                    self.client.delete(bucket, key)

    def _choose_part(self, plan: Plan, part: str | None, *, allow_partial: bool = False) -> PlannedPart:
        parts = plan.parts
        if part is None and len(parts) == 1:
            part = next(iter(parts))
        if part is None:
            ranks = {part_of_rank(rank) for rank in range(self.world_size)}
            if {name for name in parts if is_rank(name)} == ranks or (allow_partial and self.part in parts):
                part = self.part
        if part is not None and part in parts:
            return parts[part]
        was = f"step {plan.snapshot.step} of run {self.run} has the parts {', '.join(parts)}"
        advice = "name a part, or save by ebb.torch.dcp, which restores on any number of ranks"
        details = {"parts": list(parts), "part": part or self.part, "world_size": self.world_size}
        if part is None and self.part in parts:
            raise RequestInvalidError(
                f"{was}, and there {'is 1 rank' if self.world_size == 1 else f'are {self.world_size} ranks'} now: each "
                f"would get one of {len(parts)} parts, and the rest would be lost; {advice}, or say allow_partial=True",
                details,
            )
        raise NotFoundError(f"{was}, not {part or self.part}: it was saved by {len(parts)} ranks; {advice}", details)

    def with_fallback(self, error: DataCorruptError | DataLostError, step: int) -> DataCorruptError | DataLostError:
        snapshots = self.list()
        at = next((n for n, one in enumerate(snapshots) if one.step == step), -1)
        older = next((one.step for one in snapshots[at + 1 :] if one.bad is None and one.step != step), None)
        offer = (
            "and there is no older snapshot"
            if older is None
            else f"the newest older snapshot is step {older}: restore({older}), and mark_bad({step}, …) "
            "so that it is passed over"
        )
        details = {**error.details, "step": step, "fallback": older}
        return type(error)(f"step {step} of run {self.run}: {error.message}; {offer}", details)

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._background is None:
                self._background = ThreadPoolExecutor(1, thread_name_prefix="ebb-checkpoint")
            return self._background

    def _remember(self, save: Save) -> Save:
        with self._lock:
            save.session = self._sessions.pop((threading.get_ident(), save.step), save.session)
            self._saves.pop(save.step, None)
            self._saves[save.step] = save
            # A copy: a signal handler may add to it.
            for step in [step for step, one in list(self._saves.items()) if one.done() and one is not save][:-8]:
                self._saves.pop(step, None)
        return save

    def note_failure(self, error: BaseException) -> None:
        """For the next call that waits or saves."""
        with self._lock:
            self._failure = self._failure or error

    def raise_failure(self) -> None:
        with self._lock:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def after_fork(self) -> None:
        """In the child: its threads are not here, and what they had to do is the parent's (I6)."""
        self._background = None
        self._saves = {}
        self._sessions = {}
        self._failure = None
        # All ranks fork alike, so that theirs have to agree.
        self._returns += 1 if self.world_size > 1 else 1 + int.from_bytes(os.urandom(4), "little") % _FORK_NUMBERS
        self.turns = Turns(self)
        self.copier.after_fork()
        self.slots.after_fork()
        self.buffers.after_fork()

    def tell_failure(self) -> None:
        """On standard error, when no call has raised it (I2)."""
        failure, self._failure = self._failure, None
        if failure is not None and sys.stderr is not None:
            print(f"ebb: run {self.run}: a snapshot was not saved: {failure}", file=sys.stderr, flush=True)

    def __del__(self) -> None:
        if getattr(self, "_failure", None) is not None:
            self.tell_failure()


#: The open ones of this process, for its forks and its end.
_checkpointers: weakref.WeakSet[Checkpointer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for one in list(_checkpointers):
        one.after_fork()


def _tell_failures() -> None:
    """What is under way has ended: the interpreter waits for its threads first."""
    for one in list(_checkpointers):
        one.tell_failure()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_tell_failures)


def _taken_apart(state: Any) -> tuple[bytes, dict[str, Any]]:
    """The text of the state's tree, and the arrays to be written, by the names of their shards."""
    flat = _tree.flatten(state, _arrays.describe)
    assert_apart(flat.arrays, flat.buffers)
    shards, views = share(flat.arrays)
    return encode(flat.root, views), shards


def _specs(arrays: Mapping[str, Any]) -> dict[str, Spec]:
    return {name: _arrays.known_spec(array) for name, array in arrays.items()}


def _distributed() -> tuple[int, int]:
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank()), int(distributed.get_world_size())
    return 0, 1


def _session(world_size: int) -> str:
    """A fresh name; with torch.distributed, rank 0's on all ranks.

    Raises:
        RequestInvalidError: ranks cannot agree on one.
    """
    name = [uuid.uuid4().hex[:16]]
    if world_size > 1:
        if _distributed()[1] == 1:
            raise RequestInvalidError(
                f"{world_size} ranks without torch.distributed have no session in common, and nothing would be "
                "committed: give all of them the same session=… (or EBB_CHECKPOINT_SESSION), another one in each life "
                "of the job, or call torch.distributed.init_process_group first"
            )
        import torch.distributed

        torch.distributed.broadcast_object_list(name, src=0)
    return name[0]
