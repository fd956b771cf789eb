import { describe, expect, test } from 'vitest';
import { longestTurnOfTriesMs, TURN_MS_MAX } from '../testing/turns.ts';
import { parseXml } from './read-xml.ts';

const keyOf = async (text: string | Uint8Array): Promise<string | undefined> =>
  (await parseXml(text, 'D')).textOf('K');

describe('texts', () => {
  test.each([
    ['blanks and line ends around it', ' a\n ', ' a\n '],
    ['the five entities', '&amp;&lt;&gt;&quot;&apos;', '&<>"\''],
    ['a reference whose text looks like one', '&amp;lt;', '&lt;'],
    ['numbers, with zeros in front', '&#233;&#x000E9;&#x1D11E;', 'éé𝄞'],
    ['control characters by number', '&#x1;report&#x1B;', '\u0001report\u001b'],
    ['control characters as they are', '\u0001report\u007f', '\u0001report\u007f'],
    ['carriage returns by number, and raw', 'a&#13;b&#xD;\nc\rd\r\n', 'a\rb\r\nc\rd\r\n'],
    ['characters that XML has not', '&#xFFFE;\uffff', '\ufffe\uffff'],
    ['CDATA', 'a<![CDATA[<b>&amp;]]>c', 'a<b>&amp;c'],
    ['a comment in its middle', 'a<!-- & < -->b', 'ab'],
    ['an instruction in its middle', 'a<?b c?>d', 'ad'],
    ['nothing', '', ''],
  ])('%s: the text is what its sender named', async (_what, written, meant) => {
    expect(await keyOf(`<D><K>${written}</K></D>`)).toBe(meant);
  });

  test('an empty element has the empty text', async () => {
    expect(await keyOf('<D><K/></D>')).toBe('');
  });

  test('a byte order mark, a declaration and line ends stand around the document', async () => {
    const text =
      '\ufeff<?xml version="1.0" encoding="utf-8" standalone=\'yes\' ?>\r\n<D><K>é</K></D>\n';
    expect(await keyOf(Buffer.from(text))).toBe('é');
  });
});

describe('documents', () => {
  test.each([
    ['NUL by number', '&#0;a'],
    ['NUL by a number of zeros', '&#x0000;a'],
    ['NUL as it is', 'a\0'],
    ['NUL in CDATA', '<![CDATA[\0]]>'],
    ['half a character by number', '&#xD800;'],
    ['two halves by number', '&#xD83D;&#xDE00;'],
    ['a number beyond Unicode', '&#x110000;'],
    ['a number that has none', '&#;'],
    ['a number that is none', '&#x-1;'],
    ['a number of many digits', `&#${'0'.repeat(20)}65;`],
    ['an entity of HTML', '&copy;'],
    ['an entity of JavaScript', '&constructor;'],
    ['an entity without its end', '&amp'],
    ['an entity in capitals', '&AMP;'],
    ['an ampersand alone', 'a & b'],
    ['the end of CDATA alone', 'a]]>b'],
    ['CDATA without its end', '<![CDATA[a'],
    ['a comment with two dashes', 'a<!-- -- -->b'],
    ['an element beside text', 'a<X/>'],
    ['text beside an element', '<X/>a'],
    ['a character beside an element, by number', '&#65;<X/>'],
    ['an element of another namespace', '<X xmlns="urn:other"/>'],
    ['a prefix that nobody declared', '<s3:X/>'],
    ['an attribute twice', '<X a="1" a="2"/>'],
    ['an attribute without quotes', '<X a=1/>'],
    ['attributes without a blank between', '<X a="1"b="2"/>'],
    ['tags that cross', '<X><Y></X></Y>'],
    ['an end tag that begins like it', '<X></XY>'],
    ['a text that is too long', 'a'.repeat(40_000)],
    ['elements that are too deep', `${'<X>'.repeat(20)}${'</X>'.repeat(20)}`],
  ])('%s names nothing, and is malformed', async (_what, written) => {
    await expect(keyOf(`<D><K>${written}</K></D>`)).rejects.toMatchObject({ code: 'MalformedXML' });
  });

  test.each([
    ['nothing', ''],
    ['no XML', 'nope'],
    ['another root', '<E/>'],
    ['two roots', '<D/><D/>'],
    ['text behind the root', '<D/>x'],
    ['an open element', '<D><K></D>'],
    ['no end', '<D><K>a</K>'],
    ['a tag without its end', '<D><K>a</K'],
    ['a document type', '<!DOCTYPE D [<!ENTITY a "aaaa">]><D><K>&a;</K></D>'],
    ['another encoding', '<?xml version="1.0" encoding="ISO-8859-1"?><D><K>a</K></D>'],
    ['a second declaration', '<?xml version="1.0"?><?xml version="1.0"?><D/>'],
    ['a declaration in the middle', '<D><?xml version="1.0"?></D>'],
  ])('%s is no document, and malformed', async (_what, text) => {
    await expect(parseXml(text, 'D')).rejects.toMatchObject({ code: 'MalformedXML' });
  });

  test.each([
    ['bytes that are no UTF-8', Buffer.from('<D><K>a\xff</K></D>', 'latin1')],
    ['half a character in UTF-8', Buffer.from('<D><K>\xed\xa0\x80</K></D>', 'latin1')],
    ['UTF-16', Buffer.from('\ufeff<D><K>a</K></D>', 'utf16le')],
  ])('%s are no document, and malformed', async (_what, bytes) => {
    await expect(keyOf(bytes)).rejects.toMatchObject({ code: 'MalformedXML' });
  });
});

test('names are read without their prefix, in whatever namespace the root is', async () => {
  expect(await keyOf('<s3:D xmlns:s3="x"><s3:K>a</s3:K></s3:D>')).toBe('a');
  expect(await keyOf('<D xmlns="x"><K xmlns="x" xmlns:y="z" y:attribute="a&gt;b">a</K></D>')).toBe(
    'a',
  );
});

test('elements where text belongs, and one twice where one belongs, are malformed', async () => {
  const root = await parseXml('<D><K><X/></K><L>1</L><L>2</L></D>', 'D');
  expect(() => root.textOf('K')).toThrow('XML');
  expect(() => root.textOf('L')).toThrow('XML');
  expect(root.all('L')).toHaveLength(2);
  expect(() => root.child('M')).toThrow('XML');
});

test('more elements than the request may have are refused before they are read', async () => {
  const text = `<D>${'<K/>'.repeat(11)}</D>`;
  await expect(parseXml(text, 'D', { elementsMax: 11 })).rejects.toThrow('XML');
  expect((await parseXml(text, 'D', { elementsMax: 12 })).all('K')).toHaveLength(11);
});

describe('long documents', () => {
  const part = (n: number): string =>
    `<Part><PartNumber>${n}</PartNumber><ETag>&quot;${'e'.repeat(32)}&quot;</ETag><ChecksumSHA256>${'A'.repeat(43)}=</ChecksumSHA256></Part>`;
  const many = (count: number, make: (n: number) => string): string =>
    Array.from({ length: count }, (_, n) => make(n + 1)).join('');
  test.each([
    ['ten thousand parts', many(10_000, part)],
    [
      'a thousand keys of references alone',
      many(1000, () => `<Key>${'&#x0001;'.repeat(1024)}</Key>`),
    ],
    ['comments without end', '<!-- a -->'.repeat(400_000)],
    ['elements without end', '<a>'.repeat(1_000_000)],
    ['attributes without end', `<a${' b="c"'.repeat(1_000_000)}>`],
    ['one tag of blanks', `<a${' '.repeat(4_000_000)}`],
    ['texts that are cut by comments', `<a>${'b<!---->'.repeat(500_000)}</a>`],
    ['names without end', `<a>${'<a:'.repeat(1_000_000)}</a>`],
    ['namespaces in namespaces', `<a>${'<b xmlns:c="d"></b>'.repeat(100_000)}</a>`],
  ])(
    '%s: a long document holds the event loop up for no longer than a short one',
    async (_what, text) => {
      const document = Buffer.from(`<D>${text}</D>`);
      const read = async (): Promise<void> => {
        await parseXml(document, 'D', { elementsMax: 100_000 }).catch(() => undefined);
      };
      await read(); // compiled
      expect(await longestTurnOfTriesMs(read)).toBeLessThan(TURN_MS_MAX);
    },
  );
});
