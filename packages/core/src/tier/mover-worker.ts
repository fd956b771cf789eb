/** The mover's other half, in a worker thread: see mover-tasks.ts. */
import { parentPort, workerData } from 'node:worker_threads';
import { type MoverRequest, MoverTasks, type MoverWorkerData } from './mover-tasks.ts';

const tasks = new MoverTasks(workerData as MoverWorkerData);
parentPort?.on('message', (request: MoverRequest) => {
  parentPort?.postMessage(tasks.answer(request));
});
