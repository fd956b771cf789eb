/** Where the objects of runs lie: docs/checkpoint-format.md. */
import { CHECKPOINT_STEP_MAX, runNameSchema, StoreError } from '@ebb/protocol';

/** A run in its bucket. */
export interface RunRef {
  readonly bucket: string;
  readonly run: string;
}
export interface SnapshotRef extends RunRef {
  readonly step: number;
}

/** Of images while a snapshot is made, and as long as they are kept in memory. */
export const IMAGE_BUCKET = 'checkpoint-images';
/** As above, of runs in encrypted buckets. */
export const SEALED_IMAGE_BUCKET = 'checkpoint-images-encrypted';
const MANIFEST = 'manifest.json';
const STEP_DIGITS = 12;

/** Its data objects lie beside the manifest. */
export function parsePartName(part: string): string {
  if (part !== MANIFEST) return part;
  throw new StoreError('name_invalid', `a part cannot be called ${MANIFEST}: the manifest is`);
}

export function parseStep(step: number): number {
  if (!Number.isSafeInteger(step) || step < 0 || step > CHECKPOINT_STEP_MAX)
    throw new StoreError('request_invalid', `${step} is no step: use 0 to ${CHECKPOINT_STEP_MAX}`);
  return step;
}

function formatStep(step: number): string {
  return String(step).padStart(STEP_DIGITS, '0');
}

/** Before objects of the image buckets by which clients have files made ready; they delete them at once. No bucket begins so. */
export const PREPARED_PREFIX = '.prepared/';

/** Of the snapshot's record in the catalog. */
export function snapshotKey({ bucket, run, step }: SnapshotRef): string {
  return `${runKey({ bucket, run })}${formatStep(step)}`;
}
/** Of the run's policy, and before its snapshots. */
export function runKey({ bucket, run }: RunRef): string {
  return `${bucket}/${run}/`;
}
export function parseSnapshotKey(key: string): SnapshotRef {
  const [bucket = '', run = '', step = ''] = key.split('/');
  return { bucket, run, step: Number(step) };
}

/** Before the images of all sessions of a step. */
export function imagesPrefix(ref: SnapshotRef): string {
  return `${snapshotKey(ref)}/`;
}
export function imageKey(ref: SnapshotRef, session: string, image: string): string {
  return `${imagesPrefix(ref)}${session}/${image}`;
}
/** Each answer to `begin` has an id of its own, and so an image of its own. No part has a `~` in its name. */
export function imageName(part: string, id: number): string {
  return `${part}~${id}`;
}
/** Nodes before this one gave images the name of their part alone. */
export function parseImageName(image: string): { readonly part: string; readonly id: number } {
  const [part = '', id = '0'] = image.split('~');
  return { part, id: Number(id) };
}
/** Sessions of one job: what it hands over anew after it went back is kept apart from what it handed over before. */
export function jobOf(session: string): string {
  return session.split('~', 1)[0] ?? session;
}
export function nextSession(session: string): string {
  return `${jobOf(session)}~${returnsOf(session) + 1}`;
}
/** Whether a snapshot of this session may take the place of one of `there`: a job counts up, so that no name is used twice. */
export function isAfter(session: string, there: string): boolean {
  if (jobOf(session) !== jobOf(there)) return true;
  return returnsOf(session) > returnsOf(there);
}
function returnsOf(session: string): number {
  return Number(session.split('~')[1] ?? '0');
}
/** Of the manifest before the run's bucket may show it. No part can have this name. */
export function parseImageKey(key: string): SnapshotRef & { session: string; image: string } {
  const [bucket = '', run = '', step = '', session = '', image = ''] = key.split('/');
  return { bucket, run, step: Number(step), session, image };
}
export function isPendingManifest(image: string): boolean {
  return image === PENDING_MANIFEST;
}
export function pendingManifestKey(ref: SnapshotRef, session: string): string {
  return `${imagesPrefix(ref)}${session}/${PENDING_MANIFEST}`;
}
const PENDING_MANIFEST = '.manifest';

/** Before all objects of a run in its bucket. */
export function runPrefix(run: string): string {
  return `${run}/`;
}
export function manifestKey({ run, step }: SnapshotRef): string {
  return `${run}/${formatStep(step)}/${MANIFEST}`;
}
/** undefined for what is no manifest's key. */
export function parseManifestKey(key: string): { run: string; step: number } | undefined {
  const found = parseObjectKey(key);
  return found?.name === MANIFEST ? { run: found.run, step: found.step } : undefined;
}
/** undefined for what no data object is called. */
export function parseDataKey(key: string): { run: string; step: number } | undefined {
  const found = parseObjectKey(key);
  if (found === undefined || found.name === MANIFEST) return undefined;
  return { run: found.run, step: found.step };
}

function parseObjectKey(key: string): { run: string; step: number; name: string } | undefined {
  const [run = '', digits = '', name = '', ...more] = key.split('/');
  if (more.length > 0 || name === '' || digits.length !== STEP_DIGITS) return undefined;
  if (!/^\d+$/.test(digits) || !runNameSchema.safeParse(run).success) return undefined;
  return { run, step: Number(digits), name };
}

/** `copy`: 0, unless another snapshot still names what an earlier one of this step stored. */
export function dataKey({ run, step }: SnapshotRef, part: string, copy: number): string {
  return `${run}/${formatStep(step)}/${part}${copy === 0 ? '' : `.${copy}`}`;
}
