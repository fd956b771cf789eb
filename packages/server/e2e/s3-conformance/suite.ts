/**
 * What the Amazon S3 API Reference promises, as cases that run against any endpoint by the AWS SDK for JavaScript, or by
 * requests that are signed by hand where the SDK would not send what a case is about.
 *
 * A case is named by its operation and the rule. An endpoint that differs says so by the case's name, with a reason: then
 * the case must fail there, so that a difference that is gone is noticed.
 */
import { randomBytes } from 'node:crypto';
import { S3, type S3ClientConfig } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  type RawAnswer,
  sendRaw,
  signHeaders,
  type TestKey,
  type UnsignedRequest,
} from '../../src/testing/sign-s3.ts';

export interface Endpoint extends AsyncDisposable {
  readonly url: string;
  readonly key: TestKey;
}

export interface Target {
  readonly name: string;
  open(): Promise<Endpoint>;
  /** By the name of the case: why it does not hold here. */
  readonly differences: Readonly<Record<string, string>>;
}

/** What a case works with. Each group has a bucket of its own. */
export interface Tools {
  readonly s3: S3;
  readonly key: TestKey;
  readonly Bucket: string;
  readonly connect: (more: S3ClientConfig) => S3;
  readonly url: (path: string) => URL;
  /** Signed by header, and else just as it is given. */
  readonly raw: (request: RawRequest) => Promise<RawAnswer>;
  readonly put: (Key: string, Body: string | Uint8Array) => Promise<string>;
  readonly bytes: (Key: string) => Promise<Buffer>;
  /** A key that no other case uses. */
  readonly name: () => string;
}
interface RawRequest extends Omit<UnsignedRequest, 'url'> {
  /** Behind the bucket, encoded, with its query: `/key?acl`. */
  readonly path: string;
}

export type Case = readonly [name: string, run: (tools: Tools) => Promise<void>];
export interface Group {
  readonly title: string;
  readonly cases: readonly Case[];
  /** Before the first case. */
  readonly prepare?: (tools: Tools) => Promise<void>;
}

export function s3Conformance(target: Target, groups: readonly Group[]): void {
  describe(target.name, () => {
    let endpoint: Endpoint;
    const clients: S3[] = [];
    beforeAll(async () => {
      endpoint = await target.open();
    });
    afterAll(async () => {
      for (const client of clients) client.destroy();
      await endpoint?.[Symbol.asyncDispose]();
    });

    for (const { title, cases, prepare } of groups)
      describe(title, () => {
        let tools: Tools;
        beforeAll(async () => {
          tools = await openTools(endpoint, clients);
          await prepare?.(tools);
        });
        for (const [name, run] of cases) {
          const difference = target.differences[name];
          if (difference === undefined) test(name, async () => await run(tools));
          else
            test(`${name} [differs: ${difference}]`, async () => {
              await expect(run(tools), 'the difference is gone').rejects.toThrow();
            });
        }
      });

    test('every difference names a case', () => {
      const names = groups.flatMap(({ cases }) => cases.map(([name]) => name));
      expect(new Set(names).size).toBe(names.length);
      expect(names).toEqual(expect.arrayContaining(Object.keys(target.differences)));
    });
  });
}

async function openTools({ url, key }: Endpoint, clients: S3[]): Promise<Tools> {
  const connect = (more: S3ClientConfig = {}): S3 => {
    const client = new S3({
      ...{ endpoint: url, region: 'us-east-1', forcePathStyle: true, credentials: key },
      maxAttempts: 1,
      ...more,
    });
    clients.push(client);
    return client;
  };
  const s3 = connect();
  const Bucket = `conformance-${randomBytes(6).toString('hex')}`;
  await s3.createBucket({ Bucket });
  let names = 0;
  const at = (path: string): URL => new URL(`/${Bucket}${path}`, url);
  return {
    ...{ s3, key, Bucket, connect, url: at },
    raw: async ({ path, ...request }) => {
      const whole = { ...request, url: at(path) };
      return await sendRaw({ ...whole, headers: signHeaders(key, whole) });
    },
    put: async (Key, Body) => (await s3.putObject({ Bucket, Key, Body })).ETag as string,
    bytes: async (Key) => {
      const { Body } = await s3.getObject({ Bucket, Key });
      return Buffer.from(await (Body as NonNullable<typeof Body>).transformToByteArray());
    },
    name: () => `case/${++names}`,
  };
}

/** The error's code, or `none`. HEAD requests have no document, so their errors are `NotFound` and the like. */
export async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'none';
  } catch (error) {
    return (error as Error).name;
  }
}

export async function statusOf(work: Promise<unknown>): Promise<number> {
  try {
    const answer = (await work) as { $metadata: { httpStatusCode?: number } };
    return answer.$metadata.httpStatusCode ?? 0;
  } catch (error) {
    return (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode ?? 0;
  }
}

export async function textOf(work: Promise<{ Body?: unknown }>): Promise<string> {
  const { Body } = await work;
  return await (Body as { transformToString(): Promise<string> }).transformToString();
}
