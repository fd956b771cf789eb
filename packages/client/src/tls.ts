/** Who the client trusts to be the node, and how it shows itself, where the address is `https://`. */
import { readFile } from 'node:fs/promises';
import { StoreError } from '@ebb/protocol';

export interface TlsOptions {
  /** PEM file with the CA of the node's certificate, in place of those that Node trusts. */
  readonly caFile?: string | undefined;
  /** PEM files with a certificate of the client's own and its key, for a node that asks for one. */
  readonly certFile?: string | undefined;
  readonly keyFile?: string | undefined;
}

/** As `tls.connect` takes it. */
export interface ClientTls {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
}

/** @throws {StoreError} `config_invalid` */
export async function readClientTls({ caFile, certFile, keyFile }: TlsOptions): Promise<ClientTls> {
  if ((certFile === undefined) !== (keyFile === undefined))
    throw new StoreError(
      'config_invalid',
      'a certificate of the client needs its key, and a key its certificate',
    );
  return {
    ...(caFile === undefined ? {} : { ca: await readPem(caFile) }),
    ...(certFile === undefined ? {} : { cert: await readPem(certFile) }),
    ...(keyFile === undefined ? {} : { key: await readPem(keyFile) }),
  };
}

async function readPem(file: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? 'failed';
    throw new StoreError('config_invalid', `${file} cannot be read (${reason})`, { file }, error);
  }
  if (text.includes('-----BEGIN ')) return text;
  throw new StoreError('config_invalid', `${file} holds nothing as PEM`, { file });
}

/** In TLS 1.3 a node that misses a certificate of the client may only be seen to hang up. */
export function hangUpHint({ tls }: { readonly tls: ClientTls | undefined }, why: string): string {
  if (tls === undefined || tls.cert !== undefined || !/ECONNRESET|UND_ERR_SOCKET|EPIPE/.test(why))
    return '';
  return '; it hangs up when it asks for a certificate of the client and gets none: --cert-file and --key-file (certFile, keyFile)';
}

/** OpenSSL's and Node's names for a certificate that is not to be trusted. */
const NOT_TRUSTED =
  /CERT|SELF_SIGNED|UNABLE_TO_VERIFY|UNABLE_TO_GET_ISSUER|HOSTNAME_MISMATCH|INVALID_PURPOSE|INVALID_CA|PATH_LENGTH/;

/** OpenSSL's reason: a code of its own, or in the text of an EPROTO. */
export function tlsCodeOf(code: string, message: string): string {
  const [, reason] = /SSL routines:[^:]*:([^:]+):/.exec(message) ?? [];
  if (code !== 'EPROTO' || reason === undefined) return code;
  return `ERR_SSL_${reason.toUpperCase().replaceAll(/[^A-Z0-9]+/g, '_')}`;
}

/** What a handshake failed for, in words; undefined for another error. Trying again does not help. */
export function findTlsProblem(code: string): string | undefined {
  if (code === 'ERR_SSL_WRONG_VERSION_NUMBER' || code === 'ERR_SSL_PACKET_LENGTH_TOO_LONG')
    return 'the node speaks no TLS there; use http://';
  if (/^ERR_SSL_.*ALERT.*CERTIFICATE|CERTIFICATE_REQUIRED/.test(code))
    return 'the node asks for a certificate of the client, signed by its CA; name it with its key: --cert-file and --key-file (certFile, keyFile)';
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID')
    return "the node's certificate is for another host name; use a name that stands in it";
  if (code === 'CERT_HAS_EXPIRED') return "the node's certificate has expired";
  if (code === 'CERT_NOT_YET_VALID') return "the node's certificate is not valid yet";
  if (NOT_TRUSTED.test(code))
    return "the node's certificate is not of a CA that is trusted here; name its CA: --ca-file or EBB_CA_FILE (caFile)";
  return code.startsWith('ERR_SSL_') ? 'the TLS handshake failed' : undefined;
}
