import { expect, test } from 'vitest';
import { buildPlainXml, buildXml, parseXml } from './xml.ts';

test('what is built is escaped, in order, and read back', () => {
  const xml = buildXml('R', {
    A: ['<&>"\'', ' blank '],
    B: { C: 1, D: true },
    E: undefined,
    F: [],
  });
  expect(xml).toMatch(/^<\?xml version="1.0" encoding="UTF-8"\?>\n<R xmlns="http:\/\/s3/);
  const root = parseXml(xml, 'R');
  expect(root.all('A').map((a) => a.text())).toEqual(['<&>"\'', ' blank ']);
  expect(root.child('B').textOf('C')).toBe('1');
  expect(root.find('E')).toBeUndefined();
  expect(root.all('F')).toEqual([]);
});

test('characters that XML cannot carry do not spoil the answer', () => {
  const xml = buildPlainXml('Error', { Code: 'X', Key: 'a\u0001b\u001fc' });
  expect(xml).not.toMatch(/[\0-\x08]/);
  expect(parseXml(xml, 'Error').textOf('Code')).toBe('X');
});

test('names are read without their prefix, text with its blanks and entities', () => {
  const root = parseXml('<s3:D xmlns:s3="x"><s3:K> a&amp;b &#x20;&#233; </s3:K></s3:D>', 'D');
  expect(root.textOf('K')).toBe(' a&b  é ');
});

test.each([
  ['nothing', ''],
  ['no XML', 'nope'],
  ['another root', '<E/>'],
  ['an open element', '<D><K></D>'],
  ['a document type', '<!DOCTYPE D [<!ENTITY a "aaaa">]><D><K>&a;</K></D>'],
])('%s is malformed', (_what, text) => {
  expect(() => parseXml(text, 'D').child('K')).toThrow('XML');
});

test('elements where text belongs, and one twice where one belongs, are malformed', () => {
  const root = parseXml('<D><K><X/></K><L>1</L><L>2</L></D>', 'D');
  expect(() => root.textOf('K')).toThrow('XML');
  expect(() => root.textOf('L')).toThrow('XML');
  expect(root.all('L')).toHaveLength(2);
});

test('attributes stand in their element, and elements without content are there', () => {
  const grantee = { '@xmlns:xsi': 'http://x', '@xsi:type': 'A"&B', ID: 'me' };
  const xml = buildPlainXml('G', { Grantee: grantee, Empty: '', None: {} });
  expect(xml.split('\n')[1]).toBe(
    '<G><Grantee xmlns:xsi="http://x" xsi:type="A&quot;&amp;B"><ID>me</ID></Grantee><Empty></Empty><None></None></G>',
  );
});

test('entries of several names come in their own order, after the rest', () => {
  const xml = buildXml('R', { N: 1 }, [
    ['A', { K: 'x' }],
    ['B', { K: 'y' }],
    ['A', { K: 'z' }],
  ]);
  expect(xml).toContain('<N>1</N><A><K>x</K></A><B><K>y</K></B><A><K>z</K></A></R>');
});
