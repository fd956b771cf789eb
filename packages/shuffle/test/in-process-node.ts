/**
 * A real store with the shuffle service, and frame connections to it without a socket: every message still passes its
 * codecs both ways. For tests of writers and readers.
 *
 * Fault model: `crash` loses connections, staged writes and leases, and keeps what was committed; `corrupt` changes a byte in
 * a file behind the node's back; `beforeCall` may delay, fail or drop a call, and `afterCall` may lose its answer.
 */
import { openSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { CallCodec, FrameConnection, FrameSession, PushHandlers } from '@ebb/client';
import type { Owner } from '@ebb/core';
import { isStoreError, type MapOutputRow, messages, OPS, StoreError } from '@ebb/protocol';
import { openTestStore, type TestStore, type TestStoreOptions } from '@ebb/testkit';
import { openShuffleService } from '../src/catalog-shuffle-service.ts';
import type { ShuffleService } from '../src/shuffle-service.ts';
import { FakeRecords } from './fake-store.ts';

export interface Faults {
  beforeCall?: (op: number) => Promise<void> | void;
  afterCall?: (op: number) => Promise<void> | void;
}

export class InProcessNode {
  test: TestStore;
  service: ShuffleService;
  readonly records: FakeRecords;
  readonly faults: Faults = {};
  readonly calls = new Map<number, number>();
  #sessions = new Set<Session>();

  private constructor(test: TestStore, service: ShuffleService, records: FakeRecords) {
    this.test = test;
    this.service = service;
    this.records = records;
  }

  static async open(options: TestStoreOptions = {}): Promise<InProcessNode> {
    const test = await openTestStore(options);
    const records = new FakeRecords();
    const clock = { now: () => Date.now() };
    const service = await openShuffleService({ store: test.store, records, clock });
    const node = new InProcessNode(test, service, records);
    await node.openJob('app');
    return node;
  }

  async openJob(jobId: string): Promise<void> {
    const job = { jobId, label: '', heartbeatTtlMs: 3_600_000, budgetBytes: null };
    await this.test.store.openJob(job);
  }

  connect(options: { readonly localFiles: boolean }): FrameConnection & { drop(): void } {
    return new Connection(this, options);
  }

  async crash(options: { readonly loseMemory?: boolean } = {}): Promise<void> {
    for (const session of this.#sessions) session.alive = false;
    this.#sessions.clear();
    this.test = await this.test.crash(options);
    const clock = { now: () => Date.now() };
    this.service = await openShuffleService({
      store: this.test.store,
      records: this.records,
      clock,
    });
  }

  /** Of a row's file, relative to its extent. */
  async corrupt(row: MapOutputRow, position: number): Promise<void> {
    const [memory, disk] = this.test.store.tiers();
    const root = (row.location.tier === 0 ? memory : disk)?.location as string;
    const file = await open(join(root, row.location.path), 'r+');
    try {
      const byte = Buffer.alloc(1);
      await file.read(byte, 0, 1, row.location.offset + position);
      byte[0] = (byte[0] as number) ^ 0x55;
      await file.write(byte, 0, 1, row.location.offset + position);
    } finally {
      await file.close();
    }
  }

  async close(): Promise<void> {
    await this.test.close();
  }

  openSession(connection: Connection): Session {
    const session = new Session(this, connection);
    this.#sessions.add(session);
    return session;
  }

  async handle(owner: Owner, op: number, payload: Buffer, session: Session): Promise<Buffer> {
    const { service } = this;
    const { store } = this.test;
    switch (op) {
      case OPS.shuffleRegister: {
        const request = messages.shuffleRegister.request.decode(payload);
        await service.register(request, { maps: request.maps, partitions: request.partitions });
        return Buffer.alloc(0);
      }
      case OPS.mapStage:
        return messages.staged.encode(
          await service.stageMap(owner, messages.mapStage.request.decode(payload)),
        );
      case OPS.mapCommit:
        return messages.mapCommit.response.encode(
          await service.commitMap(owner, messages.mapCommit.request.decode(payload)),
        );
      case OPS.shuffleTable: {
        const request = messages.shuffleTable.request.decode(payload);
        const revoke = (blobIds: readonly number[]): void => session.revoke(blobIds);
        return messages.shuffleTable.response.encode(
          await service.table(owner, request, request.sinceVersion, revoke),
        );
      }
      case OPS.mapResolve: {
        const { attemptIds, suspect, ...ref } = messages.mapResolve.request.decode(payload);
        const rows = await service.resolve(ref, attemptIds, { suspect });
        return messages.mapResolve.response.encode({ rows });
      }
      case OPS.shuffleRelease:
        service.release(owner, messages.shuffleRelease.request.decode(payload));
        return Buffer.alloc(0);
      case OPS.shuffleRemove:
        return messages.shuffleRemove.response.encode(
          await service.remove(messages.shuffleRemove.request.decode(payload)),
        );
      case OPS.extend: {
        const { writeId, reserveBytes } = messages.extend.request.decode(payload);
        const reservedBytes = store.extend(owner, writeId, reserveBytes);
        return messages.extend.response.encode({ reservedBytes });
      }
      case OPS.write: {
        const { writeId, offset, data } = messages.write.request.decode(payload);
        await store.write(owner, writeId, data, offset);
        return Buffer.alloc(0);
      }
      case OPS.abort:
        await store.abort(owner, messages.abort.request.decode(payload).writeId);
        return Buffer.alloc(0);
      case OPS.read: {
        const { ranges } = messages.read.request.decode(payload);
        const parts: Buffer[] = [];
        for (const range of ranges) {
          const target = Buffer.alloc(range.length);
          await store.readBlob(range.blobId, target, range.offset);
          parts.push(target);
        }
        return messages.read.response.encode({ data: Buffer.concat(parts) });
      }
      case OPS.blobsReleased:
        store.guards.settled(owner, messages.blobsReleased.request.decode(payload).blobIds);
        return Buffer.alloc(0);
      default:
        throw new StoreError('request_invalid', `op ${op}`);
    }
  }
}

class Connection implements FrameConnection {
  readonly node: InProcessNode;
  readonly localFiles: boolean;
  handlers: PushHandlers = {};
  #session: Session | undefined;

  constructor(node: InProcessNode, options: { readonly localFiles: boolean }) {
    this.node = node;
    this.localFiles = options.localFiles;
  }

  get currentSession(): Session | undefined {
    return this.#session?.alive === true ? this.#session : undefined;
  }
  session(): Promise<FrameSession> {
    this.#session = this.currentSession ?? this.node.openSession(this);
    return Promise.resolve(this.#session);
  }
  async call<Q, A>(op: number, codec: CallCodec<Q, A>, message: Q): Promise<A> {
    return await (await this.session()).call(op, codec, message);
  }
  setHandlers(handlers: PushHandlers): void {
    this.handlers = handlers;
  }
  /** The connection is lost; the next call makes a new session. */
  drop(): void {
    const session = this.currentSession;
    if (session === undefined) return;
    session.alive = false;
    void this.node.test.store.dropOwner(session.owner);
  }
  async close(): Promise<void> {
    this.drop();
    await Promise.resolve();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

class Session implements FrameSession {
  alive = true;
  readonly owner: Owner;
  readonly files: FrameSession['files'];
  readonly #node: InProcessNode;
  readonly #connection: Connection;

  constructor(node: InProcessNode, connection: Connection) {
    this.#node = node;
    this.#connection = connection;
    this.owner = node.test.store.createOwner('in-process');
    const [memory, disk] = node.test.store.tiers().map((tier) => tier.location);
    const path = (tier: 0 | 1 | 2, relative: string): string =>
      join((tier === 0 ? memory : disk) as string, relative);
    this.files = connection.localFiles
      ? {
          path,
          open: async (tier, relative, mode) => await open(path(tier, relative), mode),
          openSync: (tier, relative, mode) => openSync(path(tier, relative), mode),
        }
      : undefined;
  }

  get hello(): messages.HelloResponse {
    throw new StoreError('unsupported', 'no HELLO in process');
  }
  revoke(blobIds: readonly number[]): void {
    if (this.alive) this.#connection.handlers.onRevoke?.(blobIds, this);
  }
  async call<Q, A>(op: number, codec: CallCodec<Q, A>, message: Q): Promise<A> {
    const node = this.#node;
    const payload = Buffer.from(codec.request.encode(message));
    await node.faults.beforeCall?.(op);
    if (!this.alive) throw new StoreError('node_unreachable', 'the connection is gone');
    node.calls.set(op, (node.calls.get(op) ?? 0) + 1);
    let answer: Buffer;
    try {
      answer = await node.handle(this.owner, op, payload, this);
    } catch (error) {
      if (!isStoreError(error)) throw error;
      throw messages.errorPayload.decode(messages.errorPayload.encode(error));
    }
    await node.faults.afterCall?.(op);
    if (!this.alive) throw new StoreError('node_unreachable', 'the connection is gone');
    return codec.response.decode(Buffer.from(answer));
  }
  send<Q, A>(op: number, codec: CallCodec<Q, A>, message: Q): void {
    void this.call(op, codec, message).catch(() => undefined);
  }
}
