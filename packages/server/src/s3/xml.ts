/**
 * XML in and out. It is read by fast-xml-parser, and written here: a page of a listing is some ten thousand elements.
 * Names are S3's; arrays become repeated elements.
 */
import { XMLParser } from 'fast-xml-parser';
import { S3Error } from './s3-error.ts';

const XMLNS = 'http://s3.amazonaws.com/doc/2006-03-01/';
const ATTRIBUTE = '@';
const HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n';

type XmlValue =
  | string
  | number
  | boolean
  | undefined
  | XmlElement
  | readonly (XmlElement | string)[];
/** Keys are element names, in order; `@name` is an attribute. Undefined: no element. */
export interface XmlElement {
  readonly [name: string]: XmlValue;
}

/** `entries` come after the rest, in their own order: what a list of mixed elements needs. */
export function buildXml(
  root: string,
  element: XmlElement,
  entries: readonly (readonly [name: string, element: XmlElement])[] = [],
): string {
  let inner = innerXml(element);
  for (const [name, entry] of entries) inner += elementXml(name, entry);
  return `${HEAD}<${root} xmlns="${XMLNS}">${inner}</${root}>`;
}

/** Errors, and answers to forms, have no namespace. */
export function buildPlainXml(root: string, element: XmlElement): string {
  return HEAD + elementXml(root, element);
}

function elementXml(name: string, value: XmlValue): string {
  if (value === undefined) return '';
  if (typeof value !== 'object') return `<${name}>${escapeText(String(value))}</${name}>`;
  if (isList(value)) return value.map((one) => elementXml(name, one)).join('');
  return `<${name}${attributesXml(value)}>${innerXml(value)}</${name}>`;
}

function innerXml(element: XmlElement): string {
  let text = '';
  for (const name in element)
    if (!name.startsWith(ATTRIBUTE)) text += elementXml(name, element[name]);
  return text;
}

function attributesXml(element: XmlElement): string {
  let text = '';
  for (const name in element)
    if (name.startsWith(ATTRIBUTE))
      text += ` ${name.slice(ATTRIBUTE.length)}="${escapeText(String(element[name]))}"`;
  return text;
}

function isList(
  value: XmlElement | readonly (XmlElement | string)[],
): value is readonly (XmlElement | string)[] {
  return Array.isArray(value);
}

/** Characters that XML 1.0 cannot carry in any form would make the whole answer unreadable. */
const NO_CHARACTERS = /[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/;
const SPECIAL = new RegExp(`[&<>"']|${NO_CHARACTERS.source}`);
const ESCAPES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&apos;',
};
const ALL_SPECIAL = new RegExp(SPECIAL.source, 'g');

/** Most texts have nothing to escape. */
function escapeText(text: string): string {
  if (!SPECIAL.test(text)) return text;
  return text.replaceAll(ALL_SPECIAL, (character) => ESCAPES[character] ?? '\ufffd');
}

const parser = new XMLParser({
  ignoreAttributes: true,
  parseTagValue: false,
  trimValues: false,
  removeNSPrefix: true,
  htmlEntities: true,
});

/** What a request says, element by element: missing ones, repeated ones and text are told apart when they are asked for. */
export class XmlReader {
  readonly #value: unknown;

  constructor(value: unknown) {
    this.#value = value;
  }

  /** @throws {S3Error} `MalformedXML` */
  child(name: string): XmlReader {
    const found = this.find(name);
    if (found === undefined) throw new S3Error('MalformedXML');
    return found;
  }

  find(name: string): XmlReader | undefined {
    const all = this.all(name);
    if (all.length > 1) throw new S3Error('MalformedXML');
    return all[0];
  }

  all(name: string): readonly XmlReader[] {
    const value = this.#value;
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, name)) return [];
    const inner = (value as Record<string, unknown>)[name];
    return (Array.isArray(inner) ? inner : [inner]).map((one) => new XmlReader(one));
  }

  /** @throws {S3Error} `MalformedXML` when it has elements */
  text(): string {
    if (typeof this.#value === 'string') return this.#value;
    // Beside elements, text is only the white space between them.
    throw new S3Error('MalformedXML');
  }

  textOf(name: string): string | undefined {
    return this.find(name)?.text();
  }
}

/** @throws {S3Error} `MalformedXML` */
export function parseXml(text: string, root: string): XmlReader {
  // No S3 request has a document type; it is how entities that grow would come in.
  if (/<!DOCTYPE/i.test(text)) throw new S3Error('MalformedXML');
  try {
    return new XmlReader(parser.parse(text, true)).child(root);
  } catch (error) {
    if (error instanceof S3Error) throw error;
    throw new S3Error('MalformedXML', undefined, {}, { cause: error });
  }
}
