import { StoreError } from '@ebb/protocol';

/** What a request says in a parameter that does not exist would not be done. @throws {StoreError} `request_invalid` */
export function assertParameters(query: URLSearchParams, names: readonly string[]): void {
  for (const name of query.keys()) {
    if (names.includes(name)) continue;
    const known = names.length === 0 ? 'the path takes none' : `only ${names.join(', ')}`;
    throw new StoreError('request_invalid', `no parameter "${name}" here, ${known}`);
  }
}
