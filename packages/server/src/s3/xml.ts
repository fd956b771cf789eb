/**
 * XML of answers, written by hand: a page of a listing is some ten thousand elements. It is read by read-xml.ts.
 * Names are S3's; arrays become repeated elements.
 *
 * I1  A text is read back as it is: what a parser would drop, change or take for another character is written as a reference.
 *     XML 1.0 has none for control characters other than tab and line ends. S3 writes them all the same, and so does this:
 *     a strict parser refuses the answer then, which is better than the name of another object. Clients that ask for
 *     `encoding-type=url` get such names through any parser.
 */

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

/** Beside those of XML itself: what parsers make another character of, or XML 1.0 does not have (I1). */
const SPECIAL = /[&<>"'\0-\x1f\ufffe\uffff]/;
const ALL_SPECIAL = new RegExp(SPECIAL.source, 'g');
const ESCAPES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&apos;',
  // In just these forms, which the AWS SDK for JavaScript knows beside the names.
  '\n': '&#10;',
  '\r': '&#xD;',
};

/** Most texts have nothing to escape. */
function escapeText(text: string): string {
  // Parsers drop a text of nothing but blanks.
  if (text.startsWith(' ') && text.trim() === '') return text.replaceAll(/./gs, toReference);
  return SPECIAL.test(text) ? text.replaceAll(ALL_SPECIAL, toReference) : text;
}

function toReference(character: string): string {
  return ESCAPES[character] ?? `&#x${character.charCodeAt(0).toString(16).toUpperCase()};`;
}
