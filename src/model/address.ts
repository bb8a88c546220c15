/**
 * The canonical text of an address: segments joined by `/`, each `kind.key`, `kind["any key"]` or a bare word.
 * Example: `host.builder-1/file["/etc/x.conf"]`. Always made by {@link formatAddress}, so that equal things have equal text.
 */
export type Address = string;

export interface Segment {
  readonly kind: string;
  /** Absent for a bare segment such as `boot` in `environment.smoke/boot`. */
  readonly key?: string;
}

const PLAIN_KEY = /^[A-Za-z0-9][A-Za-z0-9_-]*$/;
const KIND = /^[a-z][a-z0-9_]*/;

export function formatSegment(segment: Segment): string {
  if (segment.key === undefined) return segment.kind;
  return PLAIN_KEY.test(segment.key)
    ? `${segment.kind}.${segment.key}`
    : `${segment.kind}[${JSON.stringify(segment.key)}]`;
}

export function formatAddress(segments: readonly Segment[]): Address {
  return segments.map(formatSegment).join("/");
}

/** Without a key: the only one of its kind there, `host.a/build_server`. */
export function childAddress(parent: Address | undefined, kind: string, key?: string): Address {
  const own = formatSegment({ kind, ...(key !== undefined && { key }) });
  return parent === undefined ? own : `${parent}/${own}`;
}

/** Parses what a user typed. Returns undefined where the text is no address. Quoted plain keys are accepted. */
export function parseAddress(text: string): Segment[] | undefined {
  const segments: Segment[] = [];
  let rest = text;
  for (;;) {
    const kind = KIND.exec(rest)?.[0];
    if (kind === undefined) return undefined;
    rest = rest.slice(kind.length);
    let segment: Segment = { kind };
    if (rest.startsWith(".")) {
      const key = /^\.([^/[\]"]+)/.exec(rest)?.[1];
      if (key === undefined) return undefined;
      segment = { kind, key };
      rest = rest.slice(key.length + 1);
    } else if (rest.startsWith("[")) {
      const quoted = /^\[("(?:[^"\\]|\\.)*")\]/.exec(rest);
      if (quoted?.[1] === undefined) return undefined;
      const key = parseJsonString(quoted[1]);
      if (key === undefined) return undefined;
      segment = { kind, key };
      rest = rest.slice(quoted[0].length);
    }
    segments.push(segment);
    if (rest === "") return segments;
    if (!rest.startsWith("/")) return undefined;
    rest = rest.slice(1);
  }
}

function parseJsonString(text: string): string | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "string" ? value : undefined;
  } catch {
    return undefined;
  }
}

/** The canonical form of what a user typed, or undefined where it is no address. */
export function canonicalAddress(text: string): Address | undefined {
  const segments = parseAddress(text);
  return segments && formatAddress(segments);
}

export function lastSegment(address: Address): Segment {
  const last = parseAddress(address)?.at(-1);
  if (last === undefined) throw new TypeError(`not an address: ${address}`);
  return last;
}

export function parentAddress(address: Address): Address | undefined {
  const segments = parseAddress(address);
  if (segments === undefined || segments.length < 2) return undefined;
  return formatAddress(segments.slice(0, -1));
}

/** True where `address` is `ancestor` or lies below it. */
export function isWithin(address: Address, ancestor: Address): boolean {
  return address === ancestor || address.startsWith(`${ancestor}/`);
}
