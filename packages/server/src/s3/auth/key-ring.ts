/**
 * Access keys and what each may do. Secrets stay in this object: nothing here is logged, and errors name ids only.
 *
 * A key file is JSON: `[{"accessKeyId": "…", "secretAccessKey": "…", "grants": [{"bucket": "logs", "prefix": "app/",
 * "actions": ["read", "list"]}]}]`. Without `grants` a key may do everything.
 */
import { z } from 'zod';

const ACTIONS = ['read', 'write', 'list', 'admin'] as const;
/** `admin`: creates, configures and deletes buckets. */
export type Action = (typeof ACTIONS)[number];

const grantSchema = z.strictObject({
  /** A bucket's name, or `*` for all. */
  bucket: z.string().min(1),
  prefix: z.string().default(''),
  actions: z.array(z.enum(ACTIONS)).min(1),
});
export const keyFileSchema = z.array(
  z.strictObject({
    accessKeyId: z.string().regex(/^[\w-]{3,128}$/, '3 to 128 letters, digits, _ and -'),
    secretAccessKey: z.string().min(8, 'at least 8 characters'),
    grants: z.array(grantSchema).optional(),
  }),
);
export type AccessKey = z.infer<typeof keyFileSchema>[number];

export class KeyRing {
  readonly #keys: ReadonlyMap<string, AccessKey>;

  constructor(keys: readonly AccessKey[]) {
    this.#keys = new Map(keys.map((key) => [key.accessKeyId, key]));
  }

  /** Without keys nobody is asked for one: the listener is on loopback then. */
  get isOpen(): boolean {
    return this.#keys.size === 0;
  }

  find(accessKeyId: string): AccessKey | undefined {
    return this.#keys.get(accessKeyId);
  }
}

/**
 * Whether the key may do this. `key` undefined: asks about the bucket as a whole. A list is allowed when the prefix that is
 * listed lies below a granted one.
 */
export function mayDo(
  accessKey: AccessKey,
  action: Action,
  what: { readonly bucket: string; readonly key?: string },
): boolean {
  const { grants } = accessKey;
  if (grants === undefined) return true;
  return grants.some(
    ({ bucket, prefix, actions }) =>
      actions.includes(action) &&
      (bucket === '*' || bucket === what.bucket) &&
      (what.key === undefined ? prefix === '' || action !== 'admin' : what.key.startsWith(prefix)),
  );
}
