/**
 * What the node shows to those who connect over TLS: a certificate with its chain and the key that belongs to it, and the CA
 * whose clients are let in.
 *
 * I1  What is read is whole and fits together, or there is a complaint that says which file and why.
 * I2  No complaint and no warning repeats what stands in the key.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { createSecureContext, type SecureContextOptions } from 'node:tls';

export interface TlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
  /** null: clients need no certificate. */
  readonly clientCaFile: string | null;
}

export interface TlsIdentity {
  /** For `tls.createServer` and `setSecureContext`. */
  readonly context: SecureContextOptions;
  /** Clients of the control surface must have a certificate. */
  readonly asksClients: boolean;
  readonly subject: string;
  readonly expiresAtMs: number;
  /** Of a certificate that is used all the same. */
  readonly warnings: readonly string[];
}

type TlsSetting = 'tlsCert' | 'tlsKey' | 'tlsClientCa';
type Complain = (setting: TlsSetting, file: string, rule: string, fix: string) => void;

const EXPIRES_SOON_MS = 14 * 24 * 3_600_000;
const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** Undefined when there were complaints. */
export function readTlsIdentity(
  files: TlsFiles,
  host: { readonly readFile: (path: string) => string; readonly nowMs: number },
  complain: Complain,
): TlsIdentity | undefined {
  const read = (setting: TlsSetting, file: string): string | undefined => {
    try {
      return host.readFile(file);
    } catch (error) {
      const reason = (error as NodeJS.ErrnoException).code ?? 'failed';
      complain(setting, file, `cannot be read (${reason})`, 'name a file that this user may read');
      return undefined;
    }
  };
  const { certFile, keyFile, clientCaFile } = files;
  const cert = read('tlsCert', certFile);
  const key = read('tlsKey', keyFile);
  const clientCa = clientCaFile === null ? undefined : read('tlsClientCa', clientCaFile);
  const chain = cert === undefined ? undefined : parseChain(cert);
  if (cert !== undefined && chain === undefined)
    complain('tlsCert', certFile, 'holds no certificate as PEM', CERT_FIX);
  const parsedKey = key === undefined ? undefined : parseKey(key);
  if (typeof parsedKey === 'string') complain('tlsKey', keyFile, parsedKey, KEY_FIX);
  const cas = clientCa === undefined ? undefined : parseChain(clientCa);
  if (clientCaFile !== null && clientCa !== undefined && cas === undefined)
    complain('tlsClientCa', clientCaFile, 'holds no certificate as PEM', CA_FIX);

  const leaf = chain?.[0];
  if (leaf === undefined || typeof parsedKey !== 'object') return undefined;
  if (clientCaFile !== null && cas === undefined) return undefined;
  if (!leaf.checkPrivateKey(parsedKey)) {
    const rule = `is not the key of the first certificate in ${certFile}`;
    complain('tlsKey', keyFile, rule, 'give the key that the certificate was made for');
    return undefined;
  }
  const context: SecureContextOptions = {
    cert: cert as string,
    key: key as string,
    ...(clientCa === undefined ? {} : { ca: clientCa }),
    minVersion: 'TLSv1.2',
  };
  try {
    createSecureContext(context);
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? 'unknown reason';
    complain('tlsCert', certFile, `is refused by OpenSSL (${reason})`, CERT_FIX);
    return undefined;
  }
  const expiresAtMs = leaf.validToDate.getTime();
  return {
    context,
    asksClients: clientCa !== undefined,
    subject: leaf.subject?.replaceAll('\n', ', ') ?? '',
    expiresAtMs,
    warnings: warningsOf(leaf, certFile, host.nowMs),
  };
}

const CERT_FIX = 'give --tls-cert a PEM file: the certificate of this node first, then its chain';
const KEY_FIX = 'give --tls-key a PEM file with the private key, without a passphrase';
const CA_FIX = 'give --tls-client-ca a PEM file with the certificate of the CA';

function parseChain(text: string): readonly X509Certificate[] | undefined {
  try {
    const chain = [...text.matchAll(PEM_CERTIFICATE)].map(([pem]) => new X509Certificate(pem));
    return chain.length === 0 ? undefined : chain;
  } catch {
    return undefined;
  }
}

/** The key, or what is wrong with it. */
function parseKey(text: string): KeyObject | string {
  try {
    return createPrivateKey(text);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ERR_MISSING_PASSPHRASE' ||
      text.includes('ENCRYPTED')
      ? 'is protected by a passphrase, which the node cannot ask for'
      : 'holds no private key as PEM';
  }
}

function warningsOf(leaf: X509Certificate, certFile: string, nowMs: number): string[] {
  const fromMs = leaf.validFromDate.getTime();
  const toMs = leaf.validToDate.getTime();
  const renew = 'clients refuse it; put a new one there, it is taken without a restart';
  const until = leaf.validToDate.toISOString();
  if (nowMs > toMs) return [`${certFile}: the certificate expired at ${until}: ${renew}`];
  if (nowMs < fromMs) {
    const from = leaf.validFromDate.toISOString();
    return [`${certFile}: the certificate is not valid before ${from}: ${renew}`];
  }
  if (toMs - nowMs < EXPIRES_SOON_MS)
    return [`${certFile}: the certificate expires at ${until}: renew it`];
  return [];
}
