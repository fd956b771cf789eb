/**
 * The master keys of a node: they wrap the data key of each segment and nothing else. The first one wraps what is written
 * from now on; the others open what was written before.
 *
 * K1  No key is ever part of a message, a detail of an error, or what a keyring shows of itself.
 */
import { createHmac } from 'node:crypto';
import { StoreError } from '@ebb/protocol';

export interface MasterKey {
  readonly keyId: string;
  readonly key: Uint8Array;
  /** Tells two keys of one id apart, and nothing about the key. */
  readonly check: Buffer;
}

const KEY_BYTES = 32;
const KEYS_MAX = 256;
const CHECK_BYTES = 8;
const KEY_ID = /^[A-Za-z0-9._-]{1,63}$/;

export class Keyring {
  readonly #keys = new Map<string, MasterKey>();
  readonly #current: MasterKey;

  constructor(keys: readonly MasterKey[]) {
    for (const key of keys) this.#keys.set(key.keyId, key);
    this.#current = keys[0] as MasterKey;
  }

  get current(): MasterKey {
    return this.#current;
  }

  find(keyId: string): MasterKey | undefined {
    return this.#keys.get(keyId);
  }
}

/**
 * `[{"id": "2026-11", "key": "<32 bytes in base64>"}, …]`, the current one first.
 * @throws `config_invalid`, which names the entry and never the key
 */
export function parseKeyring(text: string): Keyring {
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch {
    // The parser's message quotes the text.
    throw invalid('they are not JSON');
  }
  if (!Array.isArray(found) || found.length === 0 || found.length > KEYS_MAX)
    throw invalid(`they are a JSON list of 1 to ${KEYS_MAX} entries {"id", "key"}`);
  const keys = found.map((entry: unknown, at) => parseKey(entry, at + 1));
  if (new Set(keys.map(({ keyId }) => keyId)).size < keys.length)
    throw invalid('two have the same id');
  return new Keyring(keys);
}

function parseKey(entry: unknown, number: number): MasterKey {
  const { id, key } = (typeof entry === 'object' && entry !== null ? entry : {}) as {
    id?: unknown;
    key?: unknown;
  };
  if (typeof id !== 'string' || !KEY_ID.test(id))
    throw invalid(`entry ${number} needs an id of 1 to 63 letters, digits, ".", "_" or "-"`);
  if (typeof key !== 'string' || !/^[A-Za-z0-9+/]{43}=$/.test(key))
    throw invalid(`key "${id}" is not ${KEY_BYTES} bytes in base64`);
  const bytes = Buffer.from(key, 'base64');
  return { keyId: id, key: bytes, check: checkOf(bytes) };
}

function checkOf(key: Uint8Array): Buffer {
  return createHmac('sha256', key).update('ebb master key').digest().subarray(0, CHECK_BYTES);
}

function invalid(why: string): StoreError {
  return new StoreError('config_invalid', `the encryption keys cannot be used: ${why}`);
}
