/**
 * Reads the XML of requests: a strict reader for small documents of elements and text.
 *
 * I1  What an element's text names is exactly what its sender wrote, or the document is malformed: no character is dropped,
 *     replaced or made another. Of a name that is another, the wrong object would be deleted.
 * I2  References are the five of XML, and numbers of characters. XML 1.0 has no numbers for control characters, but clients
 *     and S3 use them, and their meaning is plain; only NUL, lone surrogates and numbers beyond Unicode name nothing.
 * I3  A carriage return that stands raw in a text stays one. XML reads it as a line feed, so whoever follows XML writes it as
 *     a reference; Arrow does not, and means it.
 * I4  Work is bounded before it is done: bytes by the body's limit, elements, depth, attributes and lengths of texts here. The
 *     main thread is given back every `TURN_CHARS`, so that a long document delays nobody.
 *
 * Names are read without their prefix. An element of another namespace than the root's is none of S3's.
 */
import { nextTurn } from '@ebb/core';
import { S3Error } from './s3-error.ts';

const ELEMENTS_MAX = 10_000;
/** The deepest document of S3, an ACL, has five. */
const DEPTH_MAX = 10;
const ATTRIBUTES_MAX = 16;
/** The bytes of one text, as it stands: a key of 1,024 bytes in the longest references has 9 KiB. */
const TEXT_CHARS_MAX = 32 * 1024;
const TURN_CHARS = 128 * 1024;
const TURN_REFERENCES = 20_000;
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const NO_XML = /[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/;

/** What a request says, element by element: missing ones, repeated ones and text are told apart when they are asked for. */
export class XmlReader {
  readonly name: string;
  /** All of it, between its tags; of an element with elements, white space. */
  content = '';
  readonly elements: XmlReader[] = [];

  constructor(name: string) {
    this.name = name;
  }

  /** @throws {S3Error} `MalformedXML` */
  child(name: string): XmlReader {
    const found = this.find(name);
    if (found === undefined) throw malformed();
    return found;
  }

  find(name: string): XmlReader | undefined {
    let found: XmlReader | undefined;
    for (const element of this.elements) {
      if (element.name !== name) continue;
      if (found !== undefined) throw malformed();
      found = element;
    }
    return found;
  }

  all(name: string): readonly XmlReader[] {
    return this.elements.filter((element) => element.name === name);
  }

  /** @throws {S3Error} `MalformedXML` when it has elements */
  text(): string {
    if (this.elements.length > 0) throw malformed();
    return this.content;
  }

  textOf(name: string): string | undefined {
    return this.find(name)?.text();
  }

  /** A text that is no name: S3 has there what XML 1.0 has. @throws {S3Error} `MalformedXML` for other characters */
  plainText(): string {
    const text = this.text();
    if (!isXmlText(text)) throw malformed();
    return text;
  }

  /** `true` or `false` as XML Schema writes them; false where there is none. @throws {S3Error} `MalformedXML` */
  booleanOf(name: string): boolean {
    const text = this.textOf(name)?.trim() ?? 'false';
    if (text === 'true' || text === '1') return true;
    if (text === 'false' || text === '0') return false;
    throw malformed();
  }

  /** @throws {S3Error} `MalformedXML` for an element that is none of these */
  assertOnly(names: ReadonlySet<string>): void {
    for (const { name } of this.elements) if (!names.has(name)) throw malformed();
  }
}

/**
 * @param document Its bytes, which must be UTF-8, or its text.
 * @throws {S3Error} `MalformedXML`
 */
export async function parseXml(
  document: Uint8Array | string,
  root: string,
  { elementsMax = ELEMENTS_MAX }: { readonly elementsMax?: number } = {},
): Promise<XmlReader> {
  const scanner = new Scanner(decode(document), elementsMax);
  while (!scanner.scanSome()) await nextTurn();
  const found = scanner.root;
  if (found?.name !== root) throw malformed();
  return found;
}

/** Whether XML 1.0 has a way to write it. */
export function isXmlText(text: string): boolean {
  return !NO_XML.test(text);
}

function malformed(): S3Error {
  return new S3Error('MalformedXML');
}

/** A byte order mark is no part of the text. */
function decode(document: Uint8Array | string): string {
  if (typeof document === 'string') return document;
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(document);
  } catch {
    throw malformed(); // I1
  }
}

// Every repetition in a tag is bounded (I4).
const WORD = '[A-Za-z_][\\w.-]{0,63}';
const NAME = new RegExp(`${WORD}(?::${WORD})?`, 'y');
const BLANKS = '[ \\t\\r\\n]{0,256}';
const VALUE = `"[^"<]{0,1024}"|'[^'<]{0,1024}'`;
const ATTRIBUTE = new RegExp(
  `[ \\t\\r\\n]${BLANKS}(${NAME.source})${BLANKS}=${BLANKS}(${VALUE})`,
  'y',
);
const TAG_END = new RegExp(`${BLANKS}(/?)>`, 'y');
const CLOSING_END = new RegExp(`${BLANKS}>`, 'y');
const DECLARATION =
  /^<\?xml[ \t\r\n]+version[ \t\r\n]*=[ \t\r\n]*(["'])1\.\d\1(?:[ \t\r\n]+encoding[ \t\r\n]*=[ \t\r\n]*(["'])([\w.-]+)\2)?(?:[ \t\r\n]+standalone[ \t\r\n]*=[ \t\r\n]*(["'])(?:yes|no)\4)?[ \t\r\n]*\?>/;
const WHITE = /^[ \t\r\n]*$/;

/** Which namespace a prefix means ('': without one); of the nearest element that says so. */
interface Namespaces {
  readonly bound: ReadonlyMap<string, string>;
  readonly outer: Namespaces | undefined;
}

interface Open {
  readonly element: XmlReader;
  /** The name as written, with its prefix: the end tag has the same. */
  readonly tag: string;
  readonly namespaces: Namespaces | undefined;
}

class Scanner {
  readonly #text: string;
  readonly #elementsMax: number;
  #at = 0;
  #elements = 0;
  #references = 0;
  readonly #open: Open[] = [];
  #rootNamespace: string | undefined;
  root: XmlReader | undefined;

  constructor(text: string, elementsMax: number) {
    this.#text = text;
    this.#elementsMax = elementsMax;
    if (!text.startsWith('<?xml')) return;
    const [declaration, , , encoding = 'utf-8'] = DECLARATION.exec(text) ?? [];
    if (declaration === undefined || encoding.toLowerCase() !== 'utf-8') throw malformed();
    this.#at = declaration.length;
  }

  /** A bounded part of the work (I4); true when the document is read to its end. */
  scanSome(): boolean {
    const text = this.#text;
    const end = this.#at + TURN_CHARS;
    const referencesEnd = this.#references + TURN_REFERENCES;
    while (this.#at < text.length) {
      if (this.#at > end || this.#references > referencesEnd) return false;
      const tag = text.indexOf('<', this.#at);
      if (tag !== this.#at) this.#takeText(tag === -1 ? text.length : tag);
      if (tag !== -1) this.#takeMarkup();
    }
    if (this.#open.length > 0 || this.root === undefined) throw malformed();
    return true;
  }

  #takeText(end: number): void {
    if (end - this.#at > TEXT_CHARS_MAX) throw malformed();
    const raw = this.#text.slice(this.#at, end);
    this.#at = end;
    const open = this.#open.at(-1);
    if (open !== undefined) this.#addText(open.element, this.#resolve(raw));
    else if (!WHITE.test(raw)) throw malformed();
  }

  #addText(element: XmlReader, text: string): void {
    if (element.elements.length > 0) {
      // Beside elements, text is only the white space between them.
      if (!WHITE.test(text)) throw malformed();
      return;
    }
    element.content += text;
    if (element.content.length > TEXT_CHARS_MAX) throw malformed();
  }

  /** Text with its references replaced. */
  #resolve(raw: string): string {
    if (raw.includes('\0') || raw.includes(']]>')) throw malformed();
    let at = raw.indexOf('&');
    if (at === -1) return raw;
    const parts: string[] = [];
    let from = 0;
    while (at !== -1) {
      const end = raw.indexOf(';', at);
      if (end === -1 || end - at > 16) throw malformed();
      parts.push(raw.slice(from, at), referenced(raw.slice(at + 1, end)));
      this.#references++;
      from = end + 1;
      at = raw.indexOf('&', from);
    }
    parts.push(raw.slice(from));
    return parts.join('');
  }

  #takeMarkup(): void {
    const text = this.#text;
    const next = text.charCodeAt(this.#at + 1);
    if (next === SLASH) this.#takeEnd();
    else if (next === QUESTION) this.#skip('<?', '?>');
    else if (next !== BANG) this.#takeStart();
    else if (text.startsWith('<!--', this.#at)) this.#skipComment();
    else if (text.startsWith(CDATA, this.#at)) this.#takeCdata();
    else throw malformed(); // no S3 request has a document type; it is how entities that grow would come in
  }

  #skip(start: string, end: string): void {
    const at = this.#text.indexOf(end, this.#at + start.length);
    if (at === -1 || this.#text.startsWith('<?xml', this.#at)) throw malformed();
    this.#at = at + end.length;
  }

  #skipComment(): void {
    const start = this.#at + 4;
    const dashes = this.#text.indexOf('--', start);
    if (dashes === -1 || this.#text[dashes + 2] !== '>') throw malformed();
    this.#at = dashes + 3;
  }

  #takeCdata(): void {
    const start = this.#at + CDATA.length;
    const end = this.#text.indexOf(']]>', start);
    const open = this.#open.at(-1);
    if (end === -1 || end - start > TEXT_CHARS_MAX || open === undefined) throw malformed();
    const data = this.#text.slice(start, end);
    if (data.includes('\0')) throw malformed();
    this.#at = end + 3;
    this.#addText(open.element, data);
  }

  #takeStart(): void {
    const text = this.#text;
    NAME.lastIndex = this.#at + 1;
    const tag = NAME.exec(text)?.[0];
    if (tag === undefined) throw malformed();
    this.#at += 1 + tag.length;
    const bound = text.charCodeAt(this.#at) === GREATER ? undefined : this.#takeAttributes();
    TAG_END.lastIndex = this.#at;
    const end = TAG_END.exec(text);
    if (end === null) throw malformed();
    this.#at += end[0].length;
    const outer = this.#open.at(-1);
    const namespaces =
      bound === undefined ? outer?.namespaces : { bound, outer: outer?.namespaces };
    const element = new XmlReader(this.#localName(tag, namespaces));
    if (++this.#elements > this.#elementsMax) throw malformed();
    if (outer !== undefined) {
      if (!WHITE.test(outer.element.content)) throw malformed();
      outer.element.elements.push(element);
    } else {
      if (this.root !== undefined) throw malformed();
      this.root = element;
    }
    if (end[1] === '/') return;
    this.#open.push({ element, tag, namespaces });
    if (this.#open.length > DEPTH_MAX) throw malformed();
  }

  /** Only those that bind prefixes mean anything here. */
  #takeAttributes(): ReadonlyMap<string, string> | undefined {
    const seen = new Set<string>();
    let bound: Map<string, string> | undefined;
    for (;;) {
      ATTRIBUTE.lastIndex = this.#at;
      const match = ATTRIBUTE.exec(this.#text);
      if (match === null) return bound;
      const [all, name, quoted] = match as unknown as [string, string, string];
      if (seen.has(name) || seen.size === ATTRIBUTES_MAX) throw malformed();
      seen.add(name);
      this.#at += all.length;
      const value = this.#resolve(quoted.slice(1, -1));
      if (name !== 'xmlns' && !name.startsWith('xmlns:')) continue;
      bound ??= new Map();
      bound.set(name.slice('xmlns:'.length), value);
    }
  }

  #localName(tag: string, namespaces: Namespaces | undefined): string {
    const colon = tag.indexOf(':');
    const prefix = colon === -1 ? '' : tag.slice(0, colon);
    let namespace: string | undefined;
    for (let scope = namespaces; scope !== undefined; scope = scope.outer) {
      namespace = scope.bound.get(prefix);
      if (namespace !== undefined) break;
    }
    if (namespace === undefined && prefix !== '') throw malformed();
    this.#rootNamespace ??= namespace ?? '';
    if ((namespace ?? '') !== this.#rootNamespace) throw malformed();
    return colon === -1 ? tag : tag.slice(colon + 1);
  }

  #takeEnd(): void {
    const open = this.#open.pop();
    const start = this.#at + 2;
    if (open === undefined || !this.#text.startsWith(open.tag, start)) throw malformed();
    CLOSING_END.lastIndex = start + open.tag.length;
    const end = CLOSING_END.exec(this.#text);
    if (end === null) throw malformed();
    this.#at = CLOSING_END.lastIndex;
  }
}

const CDATA = '<![CDATA[';
const SLASH = 0x2f;
const BANG = 0x21;
const QUESTION = 0x3f;
const GREATER = 0x3e;

const ENTITIES: ReadonlyMap<string, string> = new Map([
  ...([
    ['amp', '&'],
    ['lt', '<'],
    ['gt', '>'],
  ] as const),
  ...([
    ['quot', '"'],
    ['apos', "'"],
  ] as const),
]);

/** I2. */
function referenced(name: string): string {
  const found = ENTITIES.get(name);
  if (found !== undefined) return found;
  const [, hex, decimal] = /^#(?:x([0-9a-fA-F]{1,8})|([0-9]{1,8}))$/.exec(name) ?? [];
  if (hex === undefined && decimal === undefined) throw malformed();
  const code = hex === undefined ? Number(decimal) : Number.parseInt(hex, 16);
  if (code === 0 || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) throw malformed();
  return String.fromCodePoint(code);
}
