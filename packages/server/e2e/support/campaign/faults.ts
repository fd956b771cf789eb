/** What the campaign does to a node, its disk and its object store, and how it is undone. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { FaultyProxy, ProxyFault } from '@ebb/testkit';
import type { NodeProcess } from '../../../../client/e2e/support/node-process.ts';
import type { DiskFault, FailingDisk } from './failing-disk.ts';
import { NUISANCES } from './nuisances.ts';

interface Patient {
  readonly node: NodeProcess;
  /** Between the node and its object store. */
  readonly proxy: FaultyProxy;
  /** undefined where none can be made. */
  readonly disk: FailingDisk | undefined;
  readonly random: () => number;
  /** Faults are held for a shorter time. */
  readonly quick: boolean;
}

export interface Fault {
  readonly name: string;
  /** Resolves when the fault is over. What it stopped runs again, unless `endsNode`. */
  readonly act: (patient: Patient) => Promise<void>;
  /** The node is gone afterwards, and is started again. */
  readonly endsNode?: boolean;
  /** The node may refuse all changes until it is started again, or end itself, and says so. */
  readonly mayNeedStart?: boolean;
  readonly needsDisk?: boolean;
  /** Who waits for the object store is answered after a minute. */
  readonly isSlow?: boolean;
}

const FAULT_MS = { min: 400, max: 2000 };
const QUICK_MS = { min: 300, max: 700 };

export const FAULTS: readonly Fault[] = [
  { name: 'nothing', act: hold },
  { name: 'kill -9', act: async ({ node }) => await node.kill(), endsNode: true },
  { name: 'SIGTERM', act: async ({ node }) => void (await node.stop()), endsNode: true },
  { name: 'SIGSTOP', act: pause },
  ...(
    [
      'refuse',
      'full',
      'hang',
      'slow',
      'cut-request',
      'cut-response',
      'lose-reply',
      'corrupt-request',
      'stall-response',
    ] as const
  ).map(storeFault),
  diskFault('no room for data', { calls: ['writes'], error: 'ENOSPC', path: '/disk/b/', oneIn: 1 }),
  diskFault('some writes of data fail', {
    calls: ['writes'],
    error: 'EIO',
    path: '/disk/b/',
    oneIn: 3,
  }),
  diskFault('some syncs of data fail', {
    calls: ['syncs'],
    error: 'EIO',
    path: '/disk/b/',
    oneIn: 3,
  }),
  diskFault('some reads of data fail', {
    calls: ['reads'],
    error: 'EIO',
    path: '/disk/b/',
    oneIn: 2,
  }),
  {
    ...diskFault('no room for the catalog', {
      calls: ['writes'],
      error: 'ENOSPC',
      path: '/catalog/',
      oneIn: 1,
    }),
    mayNeedStart: true,
  },
  {
    ...diskFault('a sync of the catalog fails', {
      calls: ['syncs'],
      error: 'EIO',
      path: '/catalog/',
      oneIn: 2,
    }),
    mayNeedStart: true,
  },
  ...NUISANCES.map(
    ({ name, act }): Fault => ({
      name,
      act: async ({ node, random }) => await act(node, random),
    }),
  ),
];

async function hold({ random, quick }: Pick<Patient, 'random' | 'quick'>): Promise<void> {
  const { min, max } = quick ? QUICK_MS : FAULT_MS;
  await sleep(min + random() * (max - min));
}

async function pause(patient: Patient): Promise<void> {
  const { pid } = patient.node;
  process.kill(pid, 'SIGSTOP');
  await hold(patient);
  process.kill(pid, 'SIGCONT');
}

function storeFault(fault: ProxyFault): Fault {
  return {
    name: `the object store: ${fault}`,
    isSlow: fault === 'hang' || fault === 'stall-response',
    async act(patient) {
      const { proxy, random } = patient;
      const share = random() < 0.5 ? 1 : 0.4;
      proxy.harm(fault, { when: () => random() < share });
      await hold(patient);
      proxy.heal();
    },
  };
}

function diskFault(name: string, fault: DiskFault): Fault {
  return {
    name,
    needsDisk: true,
    async act(patient) {
      patient.disk?.fail(fault);
      await hold(patient);
      patient.disk?.heal();
    },
  };
}
