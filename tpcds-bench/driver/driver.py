"""One Spark application that does as it is told: requests come as JSON lines on stdin, replies go as JSON lines to stdout.

    {"id": 1, "op": "open", "conf": {...}, "tables": {...}}         -> {"id": 1, "ok": {...}}
    {"id": 2, "op": "run", "sql": "..."}                            -> {"id": 2, "ok": {"wallSeconds": ..., "rows": [...]}}
    anything that fails                                             -> {"id": n, "error": "..."}

`run` and `shuffle` work in a thread of their own, so that `active` can be asked while a query runs. The application ends when stdin
does, and takes its JVM and executors with it; nothing is left behind when the orchestrator dies.
"""

import json
import os
import sys
import threading
import time
import traceback

# The JVM inherits stdout and may write to it. Replies go to a private copy; what others print goes to stderr.
REPLIES = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

from pyspark import SparkConf  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402

# With `id` and the null bits of an UnsafeRow: 128 bytes.
SHUFFLE_PAYLOAD_COLUMNS = 14
STAGE_FIELDS = [
    "stageId",
    "attemptId",
    "numTasks",
    "numCompleteTasks",
    "numCompletedIndices",
    "numFailedTasks",
    "executorRunTime",
    "executorCpuTime",
    "jvmGcTime",
    "shuffleFetchWaitTime",
    "shuffleReadBytes",
    "shuffleReadRecords",
    "shuffleWriteBytes",
    "shuffleWriteTime",
    "memoryBytesSpilled",
    "diskBytesSpilled",
]


class App:
    def __init__(self):
        self.spark = None
        self.stages_from = 0

    # Every operation below is named as its request.

    def open(self, conf, tables):
        spark_conf = SparkConf()
        for key, value in conf.items():
            spark_conf.set(key, value)
        self.spark = SparkSession.builder.config(conf=spark_conf).getOrCreate()
        self.spark.sparkContext.setLogLevel("WARN")
        for name, folder in tables.items():
            self.spark.read.parquet(folder).createOrReplaceTempView(name)
        context = self.spark.sparkContext
        return {"version": context.version, "applicationId": context.applicationId}

    def configure(self, conf):
        for key, value in conf.items():
            self.spark.conf.set(key, value)
        return {}

    def run(self, sql):
        """Wall time covers planning, execution and the rows' way to this process."""
        self._mark()
        started = time.monotonic()
        frame = self.spark.sql(sql)
        rows = frame.collect()
        wall = time.monotonic() - started
        self._drain_events()
        return {
            "wallSeconds": wall,
            "columns": frame.columns,
            "rows": [[canonical(value) for value in row] for row in rows],
        }

    def shuffle(self, rows, maps, partitions, check):
        """A synthetic shuffle: `rows` rows of 128 incompressible bytes, from `maps` map tasks to `partitions` reduce tasks.

        Reduce tasks throw the rows away (`noop`), so that moving the bytes is what costs. With `check` they add the rows up
        instead, which costs a second, small shuffle; that variant is for comparing, not for timing.
        """
        self._mark()
        payload = [f"xxhash64(id, {n}) as c{n}" for n in range(1, SHUFFLE_PAYLOAD_COLUMNS + 1)]
        moved = self.spark.range(0, rows, 1, maps).selectExpr("id", *payload).repartition(partitions)
        started = time.monotonic()
        found = []
        if check:
            sums = [f"bit_xor(c{n})" for n in range(1, SHUFFLE_PAYLOAD_COLUMNS + 1)]
            found = moved.selectExpr("count(*)", "sum(id)", *sums).collect()
        else:
            moved.write.format("noop").mode("overwrite").save()
        wall = time.monotonic() - started
        self._drain_events()
        return {"wallSeconds": wall, "columns": [], "rows": [[canonical(value) for value in row] for row in found]}

    def stages(self):
        """What the stages since the last `run` did, attempts one by one."""
        store = self._store()
        found = []
        for stage in scala_items(store.stageList(None, False, False, self._no_doubles(), self._no_statuses())):
            if stage.stageId() < self.stages_from:
                continue
            facts = {field: getattr(stage, field)() for field in STAGE_FIELDS}
            facts["status"] = stage.status().toString()
            facts["failures"] = self._failures(stage) if facts["numFailedTasks"] > 0 else []
            found.append(facts)
        return {"stages": found}

    def active(self):
        """Progress of the stages that run now; cheap enough to be asked many times a second."""
        store = self._store()
        found = []
        for stage_id in self.spark.sparkContext.statusTracker().getActiveStageIds():
            stage = store.lastStageAttempt(stage_id)
            found.append(
                {
                    "stageId": stage_id,
                    "attemptId": stage.attemptId(),
                    "numTasks": stage.numTasks(),
                    "numCompleteTasks": stage.numCompleteTasks(),
                    "shuffleReadBytes": stage.shuffleReadBytes(),
                }
            )
        return {"stages": found}

    def executors(self):
        listed = scala_items(self._store().executorList(True))
        return {"ids": [executor.id() for executor in listed if executor.id() != "driver"]}

    def collectGarbage(self):
        """Lets Spark notice the shuffles that nobody needs any more, and remove them."""
        self.spark.sparkContext._jvm.System.gc()
        return {}

    def close(self):
        self.spark.stop()
        return {}

    def _mark(self):
        store = self._store()
        stages = scala_items(store.stageList(None, False, False, self._no_doubles(), self._no_statuses()))
        self.stages_from = max((stage.stageId() for stage in stages), default=-1) + 1

    def _failures(self, stage):
        tasks = scala_items(self._store().taskList(stage.stageId(), stage.attemptId(), 100_000))
        messages = [task.errorMessage() for task in tasks if task.status() == "FAILED"]
        return [message.get()[:200] for message in messages if message.isDefined()]

    def _drain_events(self):
        """Stage figures travel through the listener bus; they are complete when it is empty."""
        self.spark.sparkContext._jsc.sc().listenerBus().waitUntilEmpty()

    def _store(self):
        return self.spark.sparkContext._jsc.sc().statusStore()

    def _no_doubles(self):
        gateway = self.spark.sparkContext._gateway
        return gateway.new_array(gateway.jvm.double, 0)

    def _no_statuses(self):
        return self.spark.sparkContext._jvm.java.util.ArrayList()


def scala_items(sequence):
    iterator = sequence.iterator()
    while iterator.hasNext():
        yield iterator.next()


def canonical(value):
    """A string that two equal values share and two different ones do not; None stays None (null)."""
    if value is None:
        return None
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    return str(value)


def reply(message):
    with REPLY_LOCK:
        REPLIES.write(json.dumps(message) + "\n")
        REPLIES.flush()


def answer(app, request):
    number = request.pop("id")
    operation = request.pop("op")
    try:
        reply({"id": number, "ok": getattr(app, operation)(**request)})
    except BaseException as failure:  # The orchestrator decides what a failure means.
        traceback.print_exc()
        reply({"id": number, "error": f"{type(failure).__name__}: {failure}"[:4000]})


REPLY_LOCK = threading.Lock()
LONG_OPERATIONS = {"run", "shuffle"}


def main():
    app = App()
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] in LONG_OPERATIONS:
            threading.Thread(target=answer, args=(app, request), daemon=True).start()
        else:
            answer(app, request)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    finally:
        os._exit(0)  # Do not wait for threads that run a query; the JVM ends with its stdin.
