import { expect, test } from 'vitest';
import { isPrivateName, ownName, privateName, privateNameBeside } from './remote-names.ts';

const id = (blobId: number) => ({ nodeId: 'node', blobId });

test('an object has its own name, in the target of its bucket', () => {
  expect(ownName(null, { bucket: 'b', key: 'a/k' })).toBe('b/a/k');
  expect(ownName('s3://x/y', { bucket: 'b', key: 'a|k' })).toBe('|s3://x/y|b/a|k');
});

test('private names are told from all that a key can be', () => {
  for (const target of [null, 's3://x/y', 'archive']) {
    const name = privateName(target, 'b', id(7));
    expect(isPrivateName(name)).toBe(true);
    expect(privateNameBeside(ownName(target, { bucket: 'b', key: 'a|/.ebb/k' }), id(7))).toBe(name);
    expect(privateNameBeside(name, id(8))).toBe(privateName(target, 'b', id(8)));
    for (const key of ['a/.ebb/7', '.ebbx/7', 'a|b/.ebb/7'])
      expect(isPrivateName(ownName(target, { bucket: 'b', key }))).toBe(false);
  }
});
