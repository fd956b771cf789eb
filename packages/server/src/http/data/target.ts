/** Which bucket, key and query a raw request names. Keys are percent-encoded UTF-8; `/` in them stays as it is. */
import { StoreError } from '@ebb/protocol';

export type DataTarget =
  | {
      readonly kind: 'object';
      readonly bucket: string;
      readonly key: string;
      /** As it came; '' for none. */
      readonly query: string;
    }
  | { readonly kind: 'collection'; readonly bucket: string; readonly query: URLSearchParams };

const PREFIX = '/v1/buckets/';
const OBJECTS = '/objects';

/** Undefined when the path is none of the data surface. @throws {StoreError} `name_invalid` when it is not UTF-8 */
export function findDataTarget(url: string): DataTarget | undefined {
  if (!url.startsWith(PREFIX)) return undefined;
  const queryAt = url.indexOf('?');
  const path = queryAt === -1 ? url : url.slice(0, queryAt);
  const bucketEnd = path.indexOf('/', PREFIX.length);
  if (bucketEnd === -1 || !path.startsWith(OBJECTS, bucketEnd)) return undefined;
  const bucket = decodeName(path.slice(PREFIX.length, bucketEnd), 'bucket name');
  const rest = path.slice(bucketEnd + OBJECTS.length);
  if (rest === '')
    return {
      kind: 'collection',
      bucket,
      query: new URLSearchParams(queryAt === -1 ? '' : checkedQuery(url.slice(queryAt + 1))),
    };
  if (!rest.startsWith('/')) return undefined;
  return {
    kind: 'object',
    bucket,
    key: decodeName(rest.slice(1), 'key'),
    query: queryAt === -1 ? '' : url.slice(queryAt + 1),
  };
}

function decodeName(text: string, what: string): string {
  if (!text.includes('%')) return text;
  try {
    return decodeURIComponent(text);
  } catch {
    throw new StoreError('name_invalid', `the ${what} is not percent-encoded UTF-8`);
  }
}

/** URLSearchParams would turn bytes that are no UTF-8 into U+FFFD, and so ask for another prefix than was meant. */
function checkedQuery(query: string): string {
  decodeName(query, 'query');
  return query;
}
