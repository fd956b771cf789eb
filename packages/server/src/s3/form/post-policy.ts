/**
 * The policy of a POST form: what its signer allows whoever fills it in (Amazon S3 API Reference, "POST Policy").
 *
 * I1  Every field of the form is covered by a condition, so that nobody adds one that the signer did not think of.
 */
import { S3Error } from '../s3-error.ts';

export interface PostPolicy {
  readonly expiresAtMs: number;
  readonly conditions: readonly FieldCondition[];
  readonly sizeBytes: { readonly min: number; readonly max: number };
}
interface FieldCondition {
  readonly match: 'eq' | 'starts-with';
  /** In lower case. */
  readonly field: string;
  readonly value: string;
}

/** Fields that need no condition: they are the policy, or its signature. */
const UNCOVERED = new Set(['policy', 'x-amz-signature', 'file']);
const IGNORED_PREFIX = 'x-ignore-';

/** @throws {S3Error} `InvalidPolicyDocument` */
export function parsePostPolicy(base64: string): PostPolicy {
  const invalid = (why: string): S3Error =>
    new S3Error('InvalidPolicyDocument', `Invalid Policy: ${why}.`);
  let document: { expiration?: unknown; conditions?: unknown };
  try {
    document = JSON.parse(Buffer.from(base64, 'base64').toString('utf8')) as typeof document;
  } catch {
    throw invalid('Invalid JSON');
  }
  const expiresAtMs = Date.parse(String(document?.expiration));
  if (Number.isNaN(expiresAtMs)) throw invalid('expiration is no date');
  if (!Array.isArray(document.conditions)) throw invalid('conditions is no list');
  const conditions: FieldCondition[] = [];
  let sizeBytes = { min: 0, max: Number.MAX_SAFE_INTEGER };
  for (const condition of document.conditions as readonly unknown[]) {
    if (Array.isArray(condition)) {
      const [operator, name, value] = condition as readonly unknown[];
      const match = String(operator).toLowerCase();
      if (match === 'content-length-range') {
        const [min, max] = [Number(name), Number(value)];
        if (!Number.isSafeInteger(min) || !Number.isSafeInteger(max) || min < 0 || min > max)
          throw invalid('content-length-range needs two sizes');
        sizeBytes = { min, max };
      } else if (
        (match === 'eq' || match === 'starts-with') &&
        typeof name === 'string' &&
        name.startsWith('$') &&
        typeof value === 'string'
      )
        conditions.push({ match, field: name.slice(1).toLowerCase(), value });
      else throw invalid(`the condition ${JSON.stringify(condition)} is none`);
    } else if (typeof condition === 'object' && condition !== null) {
      for (const [name, value] of Object.entries(condition))
        conditions.push({ match: 'eq', field: name.toLowerCase(), value: String(value) });
    } else throw invalid('a condition is a list or an object');
  }
  return { expiresAtMs, conditions, sizeBytes };
}

/**
 * @param fields With `bucket`, and with the key as it will be.
 * @throws {S3Error} `AccessDenied`
 */
export function assertPostPolicy(
  { expiresAtMs, conditions }: PostPolicy,
  fields: ReadonlyMap<string, string>,
  nowMs: number,
): void {
  const denied = (why: string): S3Error =>
    new S3Error('AccessDenied', `Invalid according to Policy: ${why}`);
  if (nowMs > expiresAtMs) throw denied('Policy expired.');
  for (const { match, field, value } of conditions) {
    const given = fields.get(field) ?? '';
    const holds = match === 'eq' ? given === value : given.startsWith(value);
    if (!holds)
      throw denied(`Policy Condition failed: ${JSON.stringify([match, `$${field}`, value])}`);
  }
  const covered = new Set(conditions.map(({ field }) => field));
  const extra = [...fields.keys()].filter(
    (name) =>
      name !== 'bucket' &&
      !covered.has(name) &&
      !UNCOVERED.has(name) &&
      !name.startsWith(IGNORED_PREFIX),
  );
  if (extra.length > 0) throw denied(`Extra input fields: ${extra.join(', ')}`); // I1
}
