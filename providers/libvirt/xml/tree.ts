import { type Document, DOMImplementation, DOMParser, type Element, XMLSerializer } from "@xmldom/xmldom";
import { LabError } from "../../../src/index.ts";

/** An XML element as plain data: what builders make and observers read. Text between child elements is not kept. */
export interface XmlElement {
  /** Without prefix. */
  readonly name: string;
  /** Namespace; absent: none, as everything of libvirt's own. */
  readonly ns?: string;
  readonly attrs: Readonly<Record<string, string>>;
  readonly children: readonly XmlElement[];
  /** What stands in an element without children, exactly; empty otherwise. */
  readonly text: string;
}

type Attribute = string | number | undefined;
type Content = XmlElement | string | undefined | false;

/** An element. Attributes that are undefined are left out, and so are undefined and false contents. */
export function el(name: string, attrs: Readonly<Record<string, Attribute>> = {}, ...content: Content[]): XmlElement {
  const kept: Record<string, string> = {};
  for (const [key, value] of Object.entries(attrs)) if (value !== undefined) kept[key] = String(value);
  const children = content.filter((one): one is XmlElement => typeof one === "object");
  const text = content.filter((one): one is string => typeof one === "string").join("");
  return { name, attrs: kept, children, text };
}

/** What XML 1.0 cannot hold, not even escaped: most control characters, halves of surrogate pairs, two non-characters. */
const FORBIDDEN = /[^\t\n\r\u{20}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]/u;

/** Whether XML can hold this text. */
export function xmlCanHold(text: string): boolean {
  return !FORBIDDEN.test(text);
}

/**
 * Text of an element. Characters that mean something are escaped, so that every parser gives back exactly what went in;
 * what no XML can hold, or libvirt does not keep, is E_SPEC_VALUE.
 */
export function formatXml(root: XmlElement, prefixes: Readonly<Record<string, string>> = {}): string {
  const document = new DOMImplementation().createDocument(null, "");
  document.appendChild(build(document, root, prefixes, 0));
  return `${new XMLSerializer().serializeToString(document, { requireWellFormed: true })}\n`;
}

function build(
  document: Document,
  from: XmlElement,
  prefixes: Readonly<Record<string, string>>,
  depth: number,
): Element {
  const prefix = from.ns === undefined ? undefined : prefixes[from.ns];
  const element = document.createElementNS(
    from.ns ?? null,
    prefix === undefined ? from.name : `${prefix}:${from.name}`,
  );
  for (const [key, value] of Object.entries(from.attrs)) element.setAttribute(key, held(value, LOST_IN_ATTRIBUTES));
  if (from.children.length === 0) {
    if (from.text !== "") element.appendChild(document.createTextNode(held(from.text, LOST_IN_TEXT)));
    return element;
  }
  for (const child of from.children) {
    element.appendChild(document.createTextNode(`\n${"  ".repeat(depth + 1)}`));
    element.appendChild(build(document, child, prefixes, depth + 1));
  }
  element.appendChild(document.createTextNode(`\n${"  ".repeat(depth)}`));
  return element;
}

/** What libvirt takes, and writes down again without an escape, so that it reads something else the next time. */
const LOST_IN_ATTRIBUTES = /[\t\n\r]/;
const LOST_IN_TEXT = /\r/;

function held(text: string, lost: RegExp): string {
  if (xmlCanHold(text) && !lost.test(text)) return text;
  throw new LabError("E_SPEC_VALUE", `${JSON.stringify(text)} holds a character that libvirt's XML cannot keep`, {
    hint: "take out line breaks, tabs and control characters",
  });
}

/** XML's own rule; the parser's default also folds characters of XML 1.1, which would change names. */
const lineEnds = (text: string): string => text.replaceAll(/\r\n?/g, "\n");

/** Reads a document. What is not well-formed, or is not what was asked for, is E_LIBVIRT_XML. */
export function parseXml(text: string, root?: string): XmlElement {
  let document: Document;
  try {
    document = new DOMParser({
      normalizeLineEndings: lineEnds,
      onError: (level, message) => {
        if (level !== "warning") throw new Error(message);
      },
    }).parseFromString(text, "text/xml");
  } catch (error) {
    throw unreadable(error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error), error);
  }
  const element = document.documentElement;
  if (element === null) throw unreadable("there is no element");
  const tree = read(element);
  if (root !== undefined && tree.name !== root) throw unreadable(`<${root}> was expected, and <${tree.name}> came`);
  return tree;
}

function unreadable(why: string, cause?: unknown): LabError {
  return new LabError("E_LIBVIRT_XML", `what libvirt says of it cannot be read: ${why}`, { cause });
}

const ELEMENT_NODE = 1;
const TEXT_NODE = 3;
const CDATA_NODE = 4;

function read(element: Element): XmlElement {
  const attrs: Record<string, string> = {};
  for (const attribute of element.attributes) {
    if (attribute.namespaceURI === null) attrs[attribute.name] = attribute.value;
  }
  const children: XmlElement[] = [];
  let text = "";
  for (const node of element.childNodes) {
    if (node.nodeType === ELEMENT_NODE) children.push(read(node as Element));
    else if (node.nodeType === TEXT_NODE || node.nodeType === CDATA_NODE) text += node.nodeValue ?? "";
  }
  return {
    name: element.localName ?? element.nodeName,
    ...(element.namespaceURI !== null && { ns: element.namespaceURI }),
    attrs,
    children,
    text: children.length === 0 ? text : "",
  };
}

/** The first child of that name, along a path of names. */
export function find(from: XmlElement | undefined, ...path: readonly string[]): XmlElement | undefined {
  let at = from;
  for (const name of path) at = at?.children.find((child) => child.name === name && child.ns === undefined);
  return at;
}

/** All children of that name. */
export function all(from: XmlElement | undefined, name: string): readonly XmlElement[] {
  return from?.children.filter((child) => child.name === name && child.ns === undefined) ?? [];
}

/** The text at a path; undefined: there is no such element. */
export function textAt(from: XmlElement | undefined, ...path: readonly string[]): string | undefined {
  return find(from, ...path)?.text;
}

/** An attribute of the element at a path. */
export function attrAt(from: XmlElement | undefined, path: readonly string[], attribute: string): string | undefined {
  return find(from, ...path)?.attrs[attribute];
}

const UNITS: Readonly<Record<string, number>> = {
  b: 1,
  bytes: 1,
  byte: 1,
  k: 1024,
  kib: 1024,
  kb: 1000,
  m: 1024 ** 2,
  mib: 1024 ** 2,
  mb: 1e6,
  g: 1024 ** 3,
  gib: 1024 ** 3,
  gb: 1e9,
  t: 1024 ** 4,
  tib: 1024 ** 4,
  tb: 1e12,
};

/** Bytes of an element such as `<memory unit='KiB'>`, whose unit is `fallback` where it says none. */
export function bytesAt(
  from: XmlElement | undefined,
  path: readonly string[],
  fallback: "KiB" | "bytes" = "KiB",
): number | undefined {
  const element = find(from, ...path);
  if (element === undefined) return undefined;
  return bytesOf(element.text, element.attrs["unit"] ?? fallback);
}

/** `2048` and `KiB` in bytes. */
export function bytesOf(number: string | undefined, unit: string): number | undefined {
  const factor = UNITS[unit.toLowerCase()];
  const value = number === undefined || number.trim() === "" ? Number.NaN : Number(number);
  return factor === undefined || !Number.isFinite(value) ? undefined : value * factor;
}

/** A whole number of an attribute or a text; undefined where there is none. */
export function wholeNumber(text: string | undefined): number | undefined {
  return text === undefined || !/^\s*\d+\s*$/.test(text) ? undefined : Number(text);
}
