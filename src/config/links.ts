import { Graph } from "../graph/index.ts";
import {
  type Address,
  canonicalAddress,
  childAddress,
  formatReference,
  isMap,
  formatSource,
  isWithin,
  lastSegment,
  parseAddress,
  type Reference,
  referenceTarget,
} from "../model/index.ts";
import type { Schema } from "../provider/index.ts";
import type { Draft } from "./expand.ts";
import { type Place, rangeOf } from "./node.ts";
import type { Problems } from "./problems.ts";
import type { KindTables } from "./tables.ts";

/** The pseudo-kind of `x-labctl: { refers: "group" }`: names of the `groups:` section. */
export const GROUP = "group";
const MOST_CYCLES = 10;
/** Names among which the nearest is looked for. */
const MOST_NAMES = 1000;

export interface LinkContext {
  readonly problems: Problems;
  readonly tables: KindTables;
  readonly drafts: ReadonlyMap<Address, Draft>;
  readonly expanded: ReadonlyMap<Address, readonly Address[]>;
  readonly groups: ReadonlySet<string>;
  /** Dangling names are not reported: what they name may be in a file that could not be read. */
  readonly incomplete: boolean;
}

/** Looks up what resources name, and finds circles. */
export class Linker {
  readonly #ctx: LinkContext;
  /** Where and why one resource needs another, for the way round a circle. */
  readonly #whys = new Map<string, Place>();

  readonly #byKind = new Map<string, readonly Address[]>();

  constructor(ctx: LinkContext) {
    this.#ctx = ctx;
  }

  /** What each resource depends on, parents left out; sorted, each once. */
  depends(): Map<Address, Address[]> {
    const out = new Map<Address, Address[]>();
    for (const draft of this.#ctx.drafts.values()) {
      const needed = new Map<Address, Place>();
      const add = (address: Address | undefined, at: Place): void => {
        if (address !== undefined && !needed.has(address)) needed.set(address, at);
      };
      for (const { reference, at } of draft.references) add(this.reference(reference, at), at);
      for (const { kind, name, at } of draft.refers) add(this.#named(kind, name, draft, at), at);
      for (const { text, at } of draft.options.dependsOn) add(this.#spoken(text, draft, at), at);
      for (const { text, at } of draft.options.replaceWhen) add(this.#watched(text, draft, at), at);
      for (const [address, at] of needed) this.#whys.set(`${draft.address}\n${address}`, at);
      // What stands on a machine needs the machine anyway.
      const own = [...needed.keys()].filter((address) => !isWithin(draft.parent?.address ?? "", address));
      out.set(draft.address, own.sort());
    }
    this.#findCycles(out);
    return out;
  }

  /** The resource that a reference names; undefined for secrets, and where it names nothing, which is reported. */
  reference(reference: Reference, at: Place): Address | undefined {
    if (reference.root === "secret") return undefined;
    const { problems, tables, drafts } = this.#ctx;
    const { address, path } = referenceTarget(reference);
    const kind = tables.kinds.get(lastSegmentKind(address));
    if (kind === undefined) {
      const root = /^[a-z_A-Z0-9]+/.exec(reference.root)?.[0] ?? reference.root;
      if (!this.#ctx.incomplete) {
        const hint = tables.suggestKind(root) ?? "a literal `${` is written `$${`";
        problems.error("E_REF_UNKNOWN", `"${root}" is no kind of resource`, at, hint);
      }
      return undefined;
    }
    if (path.length === 0) {
      problems.error(
        "E_REF_SYNTAX",
        `the reference ${formatReference(reference)} names no property of ${address}`,
        at,
        `for example \${${formatReference(reference)}.${Object.keys(kind.attributes.properties)[0] ?? "name"}}`,
      );
      return undefined;
    }
    const target = drafts.get(address);
    if (target === undefined) {
      this.#dangling(address, at);
      return undefined;
    }
    this.#attribute(target, path, at);
    return address;
  }

  #attribute(target: Draft, path: readonly string[], at: Place): void {
    const { kind } = target;
    const [first = "", ...rest] = path;
    const known = { ...kind.schema.properties, ...kind.attributes.properties };
    if (!Object.hasOwn(known, first) && !madeBy(target, first)) {
      const hint =
        this.#ctx.problems.suggest(first, Object.keys(known)) ?? `there are ${Object.keys(known).sort().join(", ")}`;
      this.#ctx.problems.error("E_REF_UNKNOWN", `a ${kind.kind} has no "${first}"`, at, hint);
      return;
    }
    if (!Object.hasOwn(known, first)) return;
    const candidates = [kind.schema.properties[first], kind.attributes.properties[first]];
    if (candidates.some((schema) => schema !== undefined && reaches(schema, rest))) return;
    this.#ctx.problems.error("E_REF_UNKNOWN", `"${first}" of a ${kind.kind} has no "${rest.join(".")}"`, at);
  }

  #dangling(address: Address, at: Place): void {
    const { problems, drafts, expanded, incomplete } = this.#ctx;
    if (incomplete) return;
    if (problems.full) {
      problems.error("E_REF_UNKNOWN", `there is no ${address}`, at);
      return;
    }
    const made = expanded.get(address);
    if (made !== undefined) {
      const shown = made.slice(0, 5).join(", ");
      problems.error(
        "E_REF_UNKNOWN",
        `${address} stands for several resources`,
        at,
        made.length === 0 ? "its `for_each` is empty" : `\`for_each\` makes ${shown}${made.length > 5 ? ", ..." : ""}`,
      );
      return;
    }
    const kind = lastSegmentKind(address);
    const like = this.#addressesOf(kind);
    problems.error(
      "E_REF_UNKNOWN",
      `there is no ${address}`,
      at,
      problems.suggest(address, like) ?? problems.suggest(address, drafts.keys()),
    );
  }

  #addressesOf(kind: string): readonly Address[] {
    const known = this.#byKind.get(kind);
    if (known !== undefined) return known;
    const made = [...this.#ctx.drafts.values()].filter((one) => one.kind.kind === kind).map((one) => one.address);
    this.#byKind.set(kind, made);
    return made;
  }

  /** The resource that a property names by its kind. */
  #named(kind: string, name: string, draft: Draft, at: Place): Address | undefined {
    const { problems, tables, drafts, groups, incomplete } = this.#ctx;
    if (kind === GROUP) {
      if (!groups.has(name) && !incomplete) {
        problems.error(
          "E_REF_UNKNOWN",
          `there is no group "${name}"`,
          at,
          problems.suggest(name, groups) ?? "declare it under `groups:`",
        );
      }
      return undefined;
    }
    const within = tables.kinds.get(kind)?.section.within;
    const address = childAddress(within === undefined ? undefined : draft.parent?.address, kind, name);
    if (drafts.has(address)) return address;
    if (incomplete) return undefined;
    if (problems.full) {
      problems.error("E_REF_UNKNOWN", `there is no ${kind} "${name}"`, at);
      return undefined;
    }
    const prefix = within === undefined ? "" : `${draft.parent?.address}/`;
    const like = this.#addressesOf(kind).filter((one) => one.startsWith(prefix));
    const names = like.slice(0, MOST_NAMES).map((one) => lastSegment(one).key ?? "");
    problems.error("E_REF_UNKNOWN", `there is no ${kind} "${name}"`, at, problems.suggest(name, names));
    return undefined;
  }

  /** An address as it was typed: of the whole lab, or of a sibling. */
  #spoken(text: string, draft: Draft, at: Place): Address | undefined {
    const address = this.#address(text, draft.parent?.address, at);
    if (address === undefined) return undefined;
    if (this.#ctx.drafts.has(address)) return address;
    this.#dangling(address, at);
    return undefined;
  }

  #address(text: string, parent: Address | undefined, at: Place): Address | undefined {
    const segments = parseAddress(text);
    const [first] = segments ?? [];
    const canonical = canonicalAddress(text);
    if (first === undefined || canonical === undefined) {
      this.#ctx.problems.error(
        "E_SPEC_VALUE",
        `${JSON.stringify(text)} is not an address`,
        at,
        'addresses look like host.builder-1 or host.builder-1/file["/etc/motd"]',
      );
      return undefined;
    }
    const kind = this.#ctx.tables.kinds.get(first.kind);
    if (kind === undefined) {
      if (!this.#ctx.incomplete)
        this.#ctx.problems.error(
          "E_REF_UNKNOWN",
          `"${first.kind}" is no kind of resource`,
          at,
          this.#ctx.tables.suggestKind(first.kind),
        );
      return undefined;
    }
    const sibling = parent !== undefined && kind.section.within === lastSegment(parent).kind;
    return sibling ? `${parent}/${canonical}` : canonical;
  }

  /** `replace_when`: an address, or an address and a property of it. */
  #watched(text: string, draft: Draft, at: Place): Address | undefined {
    const parent = draft.parent?.address;
    const whole = canonicalAddress(text);
    if (whole !== undefined && (this.#ctx.drafts.has(whole) || this.#ctx.drafts.has(`${parent}/${whole}`))) {
      return this.#spoken(text, draft, at);
    }
    for (let cut = text.lastIndexOf("."); cut > 0; cut = text.lastIndexOf(".", cut - 1)) {
      const start = canonicalAddress(text.slice(0, cut));
      const found =
        start === undefined ? undefined : [start, `${parent}/${start}`].find((one) => this.#ctx.drafts.has(one));
      const target = found === undefined ? undefined : this.#ctx.drafts.get(found);
      if (target === undefined) continue;
      this.#attribute(target, text.slice(cut + 1).split("."), at);
      return found;
    }
    return this.#spoken(text, draft, at);
  }

  #findCycles(depends: ReadonlyMap<Address, readonly Address[]>): void {
    const graph = new Graph();
    for (const address of depends.keys()) graph.add(address);
    for (const [address, needed] of depends) {
      const parent = this.#ctx.drafts.get(address)?.parent?.address;
      if (parent !== undefined) graph.after(address, parent);
      for (const other of needed) {
        if (other !== address) graph.after(address, other);
        else
          this.#ctx.problems.error("E_CYCLE", `${address} depends on itself`, this.#whys.get(`${address}\n${address}`));
      }
    }
    for (let found = 0; found < MOST_CYCLES; found++) {
      const way = graph.cycle();
      if (way === undefined) return;
      this.#reportCycle(way);
      // Broken at every step that somebody wrote, so that the same circle is not found again.
      for (const [i, from] of way.slice(0, -1).entries()) {
        const to = way[i + 1] ?? "";
        if (this.#whys.has(`${from}\n${to}`)) graph.remove(from, to);
      }
    }
  }

  #reportCycle(way: readonly string[]): void {
    const steps = way.slice(0, -1).map((from, i) => {
      const to = way[i + 1] ?? "";
      const at = this.#whys.get(`${from}\n${to}`);
      return {
        at,
        text: at === undefined ? `${from} stands on ${to}` : `${from} needs ${to} (${formatSource(rangeOf(at))})`,
      };
    });
    const at = steps.find((step) => step.at !== undefined)?.at;
    this.#ctx.problems.error(
      "E_CYCLE",
      `resources depend on each other in a circle: ${way.join(" -> ")}`,
      at,
      `${steps.map((step) => step.text).join("; ")}. Take one of these out`,
    );
  }
}

/** True where the resource itself says what it makes, as outputs by name. */
function madeBy(target: Draft, name: string): boolean {
  const { outputs } = target.desired;
  const open = target.kind.attributes.additionalProperties;
  return open !== undefined && open !== false && isMap(outputs) && Object.hasOwn(outputs, name);
}

function lastSegmentKind(address: Address): string {
  return parseAddress(address)?.at(-1)?.kind ?? "";
}

/** True where a value of this schema may have something at the path. */
function reaches(schema: Schema, path: readonly string[]): boolean {
  const [first, ...rest] = path;
  if (first === undefined) return true;
  const branches = schema.oneOf ?? schema.anyOf;
  if (branches?.some((branch) => reaches(branch, path)) === true) return true;
  const types = schema.type === undefined ? undefined : [schema.type].flat();
  if ((types === undefined || types.includes("array")) && /^\d+$/.test(first)) return reaches(schema.items ?? {}, rest);
  if (types !== undefined && !types.includes("object")) return false;
  if (branches !== undefined && schema.properties === undefined) return false;
  const known = schema.properties;
  if (known !== undefined && Object.hasOwn(known, first)) return reaches(known[first] ?? {}, rest);
  const other = schema.additionalProperties;
  return other === false ? false : reaches(typeof other === "object" ? other : {}, rest);
}
