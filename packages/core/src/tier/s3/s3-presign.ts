/**
 * URLs that read one object for a while, signed here and used by others. In the worker only.
 *
 * The host and the time are signed, nothing else is: who has the URL adds `Range` and `If-Match` as it likes.
 */
import { GetObjectCommand } from '@aws-sdk/client-s3';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import type { S3Connection } from './s3-connection.ts';
import type { S3Calls } from './s3-protocol.ts';

/** Nothing is sent to the store; credentials may have to be found first. @throws `io_failed`, `aborted` */
export async function presignGet(
  connection: S3Connection,
  { key, seconds }: S3Calls['presign']['argument'],
  signal: AbortSignal,
): Promise<string> {
  const { bucket, client } = connection;
  const doing = `signing a URL of ${key}`;
  return await connection.request({ doing, signal, attempts: 1 }, async () => {
    const command = new GetObjectCommand({ Bucket: bucket, Key: key });
    return await getSignedUrl(client, command, { expiresIn: seconds });
  });
}
