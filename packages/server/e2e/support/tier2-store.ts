/** An object store for the tier 2 of another node: the S3 surface of a node of its own, with a bucket `tier`. */
import {
  CreateBucketCommand,
  GetObjectCommand,
  ListMultipartUploadsCommand,
  ListPartsCommand,
  paginateListObjectsV2,
  S3Client,
} from '@aws-sdk/client-s3';
import {
  type NodeProcess,
  type NodeProcessOptions,
  startNodeProcess,
} from '../../../client/e2e/support/node-process.ts';

const KEY = { accessKeyId: 'TIER2STOREKEY', secretAccessKey: 'a-secret-of-the-tier-2-store' };

export interface Tier2Store extends AsyncDisposable {
  readonly node: NodeProcess;
  /** What a node needs to have its tier 2 here, below `ebb/`; `url`: where it finds this store. */
  options(url?: string): Required<Pick<NodeProcessOptions, 'args' | 'env'>>;
  /** Names below `ebb/`, without private ones. */
  names(): Promise<string[]>;
  privateNames(): Promise<string[]>;
  get(name: string): Promise<Buffer>;
  /** Parts of uploads that are open. */
  openParts(): Promise<number>;
}

export async function startTier2Store(): Promise<Tier2Store> {
  const node = await startNodeProcess({
    env: { EBB_ACCESS_KEY_ID: KEY.accessKeyId, EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey },
  });
  const client = new S3Client({
    ...{ endpoint: node.s3Url, region: 'us-east-1', forcePathStyle: true, credentials: KEY },
  });
  await client.send(new CreateBucketCommand({ Bucket: 'tier' }));
  const list = async (isWanted: (isPrivate: boolean) => boolean): Promise<string[]> => {
    const names: string[] = [];
    const where = { Bucket: 'tier', Prefix: 'ebb/' };
    for await (const { Contents = [] } of paginateListObjectsV2({ client }, where))
      names.push(...Contents.map(({ Key = '' }) => Key.slice(where.Prefix.length)));
    return names.filter((name) => isWanted(/(?:^|\/)\.ebb\//.test(name)));
  };
  return {
    node,
    options: (url = node.s3Url) => ({
      args: [`--remote=s3://tier/ebb?endpoint=${encodeURIComponent(url)}`],
      env: { AWS_ACCESS_KEY_ID: KEY.accessKeyId, AWS_SECRET_ACCESS_KEY: KEY.secretAccessKey },
    }),
    names: async () => await list((isPrivate) => !isPrivate),
    privateNames: async () => await list((isPrivate) => isPrivate),
    get: async (name) => {
      const { Body } = await client.send(
        new GetObjectCommand({ Bucket: 'tier', Key: `ebb/${name}` }),
      );
      return Buffer.from((await Body?.transformToByteArray()) ?? []);
    },
    openParts: async () => {
      const list = new ListMultipartUploadsCommand({ Bucket: 'tier' });
      let parts = 0;
      for (const { Key, UploadId } of (await client.send(list)).Uploads ?? []) {
        const upload = { Bucket: 'tier', Key, UploadId };
        parts += (await client.send(new ListPartsCommand(upload))).Parts?.length ?? 0;
      }
      return parts;
    },
    [Symbol.asyncDispose]: async () => {
      client.destroy();
      await node[Symbol.asyncDispose]();
    },
  };
}
