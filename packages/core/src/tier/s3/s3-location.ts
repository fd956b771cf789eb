/**
 * Where a tier on an object store lies, as people write it: `s3://bucket/prefix?endpoint=https://…&region=…&pathStyle=true`.
 *
 * I1  A location holds no credentials, and no complaint repeats what might be some: neither a value of the query nor what
 *     stands before an `@`.
 * I2  An endpoint is taken only where the caller allows it. Who may name one decides whom the node sends its signed
 *     requests to, so that is for the operator's configuration and not for a client.
 */
import { StoreError } from '@ebb/protocol';

export interface S3Target {
  readonly bucket: string;
  /** Of every key, without a slash at either end; '' for none. */
  readonly prefix: string;
  /** Undefined: AWS, in the region. */
  readonly endpoint: string | undefined;
  /** Undefined: what the environment says; with an endpoint `us-east-1`. */
  readonly region: string | undefined;
  /** The bucket in the path of URLs instead of the host name. Default: with an endpoint. */
  readonly pathStyle: boolean;
}

const PARAMETERS = ['endpoint', 'region', 'pathStyle'] as const;
type Parameter = (typeof PARAMETERS)[number];

/** @throws `config_invalid` */
export function parseS3Location(
  text: string,
  { allowsEndpoint }: { readonly allowsEndpoint: boolean },
): S3Target {
  const [, path, query] = /^s3:\/\/([^?#]*)(?:\?([^#]*))?$/.exec(text) ?? [];
  if (path === undefined) throw complaint('it must look like s3://bucket/prefix');
  const slash = path.indexOf('/');
  const bucket = slash === -1 ? path : path.slice(0, slash);
  if (bucket.includes('@')) throw complaint(NO_CREDENTIALS);
  const parameters = parseQuery(query ?? '');
  const endpoint = parseEndpoint(parameters.get('endpoint'), allowsEndpoint);
  return {
    bucket: parseBucket(bucket),
    prefix: parsePrefix(slash === -1 ? '' : path.slice(slash + 1)),
    endpoint,
    region: parseRegion(parameters.get('region')),
    pathStyle: parseFlag(parameters.get('pathStyle')) ?? endpoint !== undefined,
  };
}

/** What `parseS3Location` reads as the same target. */
export function formatS3Location(target: S3Target): string {
  const { bucket, prefix, endpoint, region, pathStyle } = target;
  const parameters = [
    endpoint === undefined ? [] : [`endpoint=${encodeURIComponent(endpoint)}`],
    region === undefined ? [] : [`region=${region}`],
    pathStyle === (endpoint !== undefined) ? [] : [`pathStyle=${pathStyle}`],
  ].flat();
  const query = parameters.length === 0 ? '' : `?${parameters.join('&')}`;
  return `s3://${bucket}${prefix === '' ? '' : `/${prefix}`}${query}`;
}

const NO_CREDENTIALS =
  'credentials do not belong into it; give them apart, or leave them to the environment';

function parseQuery(query: string): ReadonlyMap<Parameter, string> {
  const parameters = new Map<Parameter, string>();
  for (const [name, value] of new URLSearchParams(query)) {
    const known = PARAMETERS.find((parameter) => parameter === name);
    if (known === undefined) {
      const hint = /key|secret|token|credential|password/i.test(name) ? `: ${NO_CREDENTIALS}` : '';
      const printable = /^[\w-]{1,64}$/.test(name) ? ` ${name}` : '';
      throw complaint(`there is no parameter${printable}, only ${PARAMETERS.join(', ')}${hint}`);
    }
    if (parameters.has(known)) throw complaint(`${known} is given twice`);
    parameters.set(known, value);
  }
  return parameters;
}

function parseBucket(bucket: string): string {
  const isValid = /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(bucket) && !bucket.includes('..');
  if (isValid) return bucket;
  throw complaint(
    'the bucket must be 3 to 63 lower-case letters, digits, hyphens and dots, with a letter or digit at both ends',
  );
}

function parsePrefix(text: string): string {
  const prefix = text.replace(/\/$/, '');
  if (prefix === '') return '';
  const isPlain =
    prefix.isWellFormed() &&
    !/[\0-\x1f\x7f]/.test(prefix) &&
    prefix.split('/').every((segment) => !['', '.', '..'].includes(segment));
  if (isPlain) return prefix;
  throw complaint('the prefix must be segments between single slashes, none of them . or ..');
}

/** The region becomes part of a host name where no endpoint is given. */
function parseRegion(region: string | undefined): string | undefined {
  if (region === undefined || /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/.test(region)) return region;
  throw complaint('the region must be lower-case letters, digits and hyphens');
}

function parseEndpoint(text: string | undefined, allowsEndpoint: boolean): string | undefined {
  if (text === undefined) return undefined;
  if (!allowsEndpoint) {
    throw complaint('only the configuration of the node may name an endpoint');
  }
  const url = URL.parse(text);
  if (url === null || !/^https?:$/.test(url.protocol)) {
    throw complaint('the endpoint must be a URL that begins with http:// or https://');
  }
  if (url.username !== '' || url.password !== '') throw complaint(NO_CREDENTIALS);
  if (url.search !== '' || url.hash !== '') {
    throw complaint('the endpoint must end with its path, without ? and #');
  }
  return url.href.replace(/\/$/, '');
}

function parseFlag(text: string | undefined): boolean | undefined {
  if (text === undefined) return undefined;
  if (text === 'true' || text === 'false') return text === 'true';
  throw complaint('pathStyle must be true or false');
}

function complaint(why: string): StoreError {
  return new StoreError('config_invalid', `this is no location of an object store: ${why}`);
}
