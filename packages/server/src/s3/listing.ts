/** What listings share: names that XML cannot carry are encoded on demand, and tokens that say where to go on. */
import { parameter, type S3Call } from './call.ts';
import { S3Error } from './s3-error.ts';

export interface NameEncoding {
  readonly encode: (name: string) => string;
  /** Undefined: names come as they are. */
  readonly encodingType: 'url' | undefined;
}

/** @throws {S3Error} `InvalidArgument` */
export function readEncoding(call: S3Call): NameEncoding {
  const asked = parameter(call, 'encoding-type') ?? '';
  if (asked === '') return { encode: (name) => name, encodingType: undefined };
  if (asked.toLowerCase() === 'url') return { encode: encodeName, encodingType: 'url' };
  throw new S3Error('InvalidArgument', 'Invalid Encoding Method specified in Request', {
    ArgumentName: 'encoding-type',
    ArgumentValue: asked,
  });
}

/** As S3 does it: a form's encoding, with slashes left as they are. */
function encodeName(name: string): string {
  return encodeURIComponent(name)
    .replaceAll('%2F', '/')
    .replaceAll('%20', '+')
    .replaceAll("'", '%27');
}

/** Opaque to clients. */
export function encodeToken(name: string): string {
  return Buffer.from(name, 'utf8').toString('base64url');
}

/** @throws {S3Error} `InvalidArgument` */
export function decodeToken(token: string): string {
  const name = Buffer.from(token, 'base64url').toString('utf8');
  if (token === '' || encodeToken(name) !== token)
    throw new S3Error('InvalidArgument', 'The continuation token provided is incorrect', {
      ArgumentName: 'continuation-token',
    });
  return name;
}
