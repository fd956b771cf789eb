/**
 * The directories of a node: is there room, may this user write, how fast is a sync, what kind of file system is it.
 *
 * Nothing stays: what is written to has lost its name before the first byte, and no directory is made.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  type StatsFs,
  statfsSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { assertTrustedPath } from '@ebb/core';
import { formatBytes, GiB, MiB } from '@ebb/protocol';
import { allocatedBytes, type NodeConfig } from '../config.ts';
import { type Finding, Findings } from './finding.ts';

/** By what statfs calls their type. */
const FILE_SYSTEMS = new Map<number, string>([
  [0xef53, 'ext4'],
  [0x58465342, 'XFS'],
  [0x9123683e, 'Btrfs'],
  [0x2fc12fc1, 'ZFS'],
  [0xf2f52010, 'F2FS'],
  [0x01021994, 'tmpfs'],
  [0x794c7630, 'overlay'],
  [0x6969, 'NFS'],
  [0xff534d42, 'SMB'],
  [0xfe534d42, 'SMB'],
  [0x65735546, 'FUSE'],
]);
const REMOTE_FILE_SYSTEMS = ['NFS', 'SMB', 'FUSE'];
const SYNCS = 7;
const SYNC_MS_NOTED = 20;
const INODES_MIN = 20_000;
/** What Docker gives a container that says nothing. */
const DOCKER_SHM_BYTES = 64 * MiB;

export function examineMemory(config: NodeConfig): readonly Finding[] {
  const { memoryDir, memoryLimitBytes } = config;
  const findings = new Findings('memory');
  const at = nearestExisting(memoryDir);
  const space = statfsSync(at);
  const kind = kindOf(space);
  const totalBytes = space.blocks * space.bsize;
  const freeBytes = space.bavail * space.bsize + allocatedBytes(memoryDir);
  if (kind !== 'tmpfs')
    findings.warn(
      'file system',
      `${memoryDir} is on ${kind}, not on a tmpfs: the memory tier is as slow as that; give --memory-dir a directory below /dev/shm`,
    );
  else findings.ok('file system', `${memoryDir} is on a tmpfs of ${formatBytes(totalBytes)}`);

  const limit = formatBytes(memoryLimitBytes);
  if (memoryLimitBytes > totalBytes)
    findings.fail(
      'room',
      `the memory limit of ${limit} is more than the ${formatBytes(totalBytes)} of ${at}; give a smaller --memory-limit or a larger tmpfs (in a container: --shm-size)`,
    );
  else if (memoryLimitBytes > freeBytes)
    findings.warn(
      'room',
      `of the memory limit of ${limit}, ${formatBytes(freeBytes)} are free in ${at}: something else holds the rest; remove it, or give a smaller --memory-limit`,
    );
  else findings.ok('room', `the memory limit of ${limit} fits into what is free`);
  if (kind === 'tmpfs' && totalBytes <= DOCKER_SHM_BYTES)
    findings.warn(
      'size',
      `a tmpfs of ${formatBytes(totalBytes)} is what a container gets that asks for none; start it with --shm-size, or mount a tmpfs`,
    );

  const machineBytes = Math.min(
    totalmem(),
    process.constrainedMemory() || Number.POSITIVE_INFINITY,
  );
  const leftBytes = machineBytes - memoryLimitBytes;
  if (leftBytes < 512 * MiB)
    findings.fail(
      'memory of the machine',
      `a memory limit of ${limit} leaves ${formatBytes(Math.max(0, leftBytes))} of ${formatBytes(machineBytes)} to everything else, and the daemon alone needs 512MiB: the kernel will end programs; give a smaller --memory-limit`,
    );
  else if (memoryLimitBytes > machineBytes * 0.6)
    findings.warn(
      'memory of the machine',
      `the memory tier may take ${limit} of ${formatBytes(machineBytes)}; see that the jobs get along with the rest`,
    );
  else
    findings.ok(
      'memory of the machine',
      `${formatBytes(machineBytes)}, of which the tier takes up to ${limit}`,
    );
  tellInodes(findings, space, at);
  tellTrusted(findings, memoryDir, '--memory-dir');
  tellWritable(findings, memoryDir);
  return findings.list;
}

export function examineData(config: NodeConfig): readonly Finding[] {
  const { dataDir, diskLimitBytes } = config;
  const findings = new Findings('data');
  const at = nearestExisting(dataDir);
  const space = statfsSync(at);
  const kind = kindOf(space);
  if (REMOTE_FILE_SYSTEMS.includes(kind))
    findings.fail(
      'file system',
      `${dataDir} is on ${kind}: the catalog needs a local disk; give --data a directory on one`,
    );
  else if (kind === 'tmpfs')
    findings.warn(
      'file system',
      `${dataDir} is on a tmpfs: what is acknowledged as on disk is lost when the host restarts; give --data a directory on a disk`,
    );
  else if (kind === 'overlay')
    findings.warn(
      'file system',
      `${dataDir} is in the layer of a container, and goes with it; mount a volume there`,
    );
  else findings.ok('file system', `${dataDir} is on ${kind}`);

  const totalBytes = space.blocks * space.bsize;
  const freeBytes = space.bavail * space.bsize;
  const ownDiskBytes = allocatedBytes(join(dataDir, 'disk'));
  if (diskLimitBytes > freeBytes + ownDiskBytes)
    findings.warn(
      'room',
      `the disk limit is ${formatBytes(diskLimitBytes)}, and ${formatBytes(freeBytes)} are free; give a smaller --disk-limit, or make room`,
    );
  else
    findings.ok(
      'room',
      `${formatBytes(freeBytes)} of ${formatBytes(totalBytes)} are free, the disk limit is ${formatBytes(diskLimitBytes)}`,
    );
  if (freeBytes < Math.min(GiB, totalBytes / 20))
    findings.warn(
      'nearly full',
      `${formatBytes(freeBytes)} are free on the file system of ${dataDir}: the catalog needs room beside the tier; make some`,
    );
  tellInodes(findings, space, at);
  tellTrusted(findings, dataDir, '--data');
  if (tellWritable(findings, dataDir)) tellSyncs(findings, at);
  tellOpen(findings, dataDir);
  return findings.list;
}

/** A directory as the remote tier. */
export function examineRemoteDirectory(directory: string): readonly Finding[] {
  const findings = new Findings(`remote file://${directory}`);
  const space = statfsSync(nearestExisting(directory));
  findings.ok('file system', `${kindOf(space)}, ${formatBytes(space.bavail * space.bsize)} free`);
  tellWritable(findings, directory);
  return findings.list;
}

/** Checks what the start checks: whose the way to the directory is, and who may write there. */
function tellTrusted(findings: Findings, path: string, setting: string): void {
  try {
    assertTrustedPath({ path, setting });
    findings.ok('owners', `nobody else can replace ${path} or what is on the way to it`);
  } catch (error) {
    findings.fail('owners', (error as Error).message);
  }
}

function tellWritable(findings: Findings, directory: string): boolean {
  const at = nearestExisting(directory);
  try {
    closeSync(openNameless(at));
    findings.ok(
      'rights',
      at === directory
        ? `this user may write in ${directory}`
        : `${directory} is not there yet, and can be made`,
    );
    return true;
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    const why =
      code === 'EROFS' ? 'its file system is read-only' : code === 'ENOSPC' ? 'it is full' : code;
    const what =
      at === directory
        ? `${at} cannot be written in`
        : `${directory} is not there, and cannot be made in ${at}`;
    findings.fail(
      'rights',
      `${what} (${why}): let uid ${process.getuid?.()} own it, or name another`,
    );
    return false;
  }
}

function tellSyncs(findings: Findings, directory: string): void {
  const took: number[] = [];
  const fd = openNameless(directory);
  try {
    for (let index = 0; index < SYNCS; index++) {
      writeSync(fd, Buffer.alloc(4096, index));
      const startedMs = performance.now();
      fsyncSync(fd);
      took.push(performance.now() - startedMs);
    }
  } catch (error) {
    findings.fail(
      'sync',
      `a file in ${directory} cannot be synced (${(error as NodeJS.ErrnoException).code}); look at the disk`,
    );
    return;
  } finally {
    closeSync(fd);
  }
  took.sort((a, b) => a - b);
  const medianMs = took[Math.floor(SYNCS / 2)] as number;
  const shown = `a sync takes ${medianMs.toFixed(1)} ms (median of ${SYNCS})`;
  if (medianMs > SYNC_MS_NOTED)
    findings.warn(
      'sync',
      `${shown}: every write with ack=disk waits for one; use a faster disk, or ack=memory where that will do`,
    );
  else findings.ok('sync', shown);
}

function tellInodes(findings: Findings, space: StatsFs, at: string): void {
  if (space.files === 0) return; // the file system has no such bound
  if (space.ffree < INODES_MIN)
    findings.warn(
      'inodes',
      `${space.ffree} files can still be made on the file system of ${at}; each blob is one: remove files, or make it anew with more inodes`,
    );
  else findings.ok('inodes', `${space.ffree} files can still be made`);
}

/** Others on the host. */
function tellOpen(findings: Findings, directory: string): void {
  const found = statSync(directory, { throwIfNoEntry: false });
  if (found === undefined) return;
  if ((found.mode & 0o002) !== 0)
    findings.fail(
      'rights of others',
      `every user of the host may write in ${directory}; take that away: chmod o-rwx ${directory}`,
    );
  else
    findings.ok(
      'rights of others',
      `clients must be in group ${found.gid} to use the node's files`,
    );
}

/** A file that has lost its name: it goes with its descriptor, however this process ends. */
function openNameless(directory: string): number {
  const path = join(directory, `.ebb-doctor-${process.pid}`);
  const fd = openSync(path, 'wx', 0o600);
  unlinkSync(path);
  return fd;
}

function nearestExisting(path: string): string {
  let at = path;
  while (!existsSync(at) && at !== '/') at = dirname(at);
  return at;
}

function kindOf({ type }: StatsFs): string {
  return FILE_SYSTEMS.get(type) ?? `a file system of type 0x${type.toString(16)}`;
}
