import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseXml } from './read-xml.ts';
import { buildPlainXml, buildXml } from './xml.ts';

test('what is built is escaped, in order, and read back', async () => {
  const xml = buildXml('R', {
    A: ['<&>"\'', ' blank '],
    B: { C: 1, D: true },
    E: undefined,
    F: [],
  });
  expect(xml).toMatch(/^<\?xml version="1.0" encoding="UTF-8"\?>\n<R xmlns="http:\/\/s3/);
  const root = await parseXml(xml, 'R');
  expect(root.all('A').map((a) => a.text())).toEqual(['<&>"\'', ' blank ']);
  expect(root.child('B').textOf('C')).toBe('1');
  expect(root.find('E')).toBeUndefined();
  expect(root.all('F')).toEqual([]);
});

test('every character that a key may hold is written so that it is read back, line ends and blanks alone too', async () => {
  const texts = [
    ...Array.from({ length: 0x2ff }, (_, code) => String.fromCharCode(code + 1)),
    ...['\r\n', '\n', ' ', '   ', '\t', '\ufffe', '\uffff', '\u2028', '𝄞', ' a ', '&amp;', ']]>'],
  ];
  const xml = buildXml('R', { K: texts });
  expect(xml).not.toMatch(/[\0-\x09\x0b-\x1f]/);
  const root = await parseXml(xml, 'R');
  expect(root.all('K').map((one) => one.text())).toEqual(texts);
});

test('control characters are written as S3 writes them: as references', () => {
  const xml = buildPlainXml('E', { K: 'a\u0001b\u001fc\rd\ne\tf' });
  expect(xml).toContain('<K>a&#x1;b&#x1F;c&#xD;d&#10;e&#x9;f</K>');
});

test('any text is read back as it was', async () => {
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'binary', maxLength: 40 }), async (text) => {
      fc.pre(!text.includes('\0') && text.isWellFormed());
      const root = await parseXml(Buffer.from(buildXml('R', { K: text })), 'R');
      expect(root.textOf('K')).toBe(text);
    }),
  );
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
