import {
  type Address,
  canonicalAddress,
  type ImportRequest,
  isWithin,
  lastSegment,
  type Move,
  type Removal,
} from "../model/index.ts";
import type { Draft } from "./expand.ts";
import { coreValue, type Entry, entryOf, type MapNode, type Place, rangeOf } from "./node.ts";
import type { Problems } from "./problems.ts";
import type { KindTables } from "./tables.ts";

export interface RosterContext {
  readonly problems: Problems;
  readonly tables: KindTables;
  readonly drafts: ReadonlyMap<Address, Draft>;
  readonly lab: MapNode | undefined;
  readonly incomplete: boolean;
  readonly suggest: (address: Address) => string | undefined;
}

/** `import:`, `moved:` and `removed:`: sections whose keys are addresses. Their form was checked by their schemas. */
export class Roster {
  readonly #ctx: RosterContext;
  constructor(ctx: RosterContext) {
    this.#ctx = ctx;
  }

  imports(): ImportRequest[] {
    const out: ImportRequest[] = [];
    for (const [address, entry] of this.#entries("import")) {
      if (entry.value.type !== "scalar") continue;
      if (this.#declared(address, entry.at)) out.push({ address, id: entry.value.text, at: rangeOf(entry.at) });
    }
    return out;
  }

  removed(): Removal[] {
    const out: Removal[] = [];
    for (const [address, entry] of this.#entries("removed")) {
      if (this.#ctx.drafts.has(address)) {
        this.#ctx.problems.error(
          "E_SPEC_VALUE",
          `${address} is declared, and under \`removed:\` as well`,
          entry.at,
          "take one of the two out",
        );
        continue;
      }
      const said = entryOf(entry.value, "forget")?.value;
      const forget = said?.type === "scalar" && said.plain && coreValue(said.text) === true;
      out.push({ address, forget, at: rangeOf(entry.at) });
    }
    return out;
  }

  /** Renames with their last names: of `a: b` and `b: c` both lead to c. */
  moved(): Move[] {
    const targets = new Map<Address, { to: Address; entry: Entry }>();
    for (const [from, entry] of this.#entries("moved")) {
      if (entry.value.type !== "scalar") continue;
      const to = this.#address(entry.value.text, entry.value);
      if (to === undefined) continue;
      const why = this.#cannotMove(from, to);
      if (why === undefined) targets.set(from, { to, entry });
      else this.#ctx.problems.error("E_MOVED", why, entry.at);
    }
    const out: Move[] = [];
    const taken = new Map<Address, Address>();
    for (const [from, { to, entry }] of targets) {
      const last = this.#follow(from, to, targets);
      if (last === undefined) {
        this.#ctx.problems.error("E_MOVED", `the renames of ${from} go in a circle`, entry.at);
        continue;
      }
      const other = taken.get(to);
      if (other !== undefined)
        this.#ctx.problems.error("E_MOVED", `${other} and ${from} cannot both become ${to}`, entry.at);
      taken.set(to, from);
      if (this.#declared(last, entry.value)) out.push({ from, to: last, at: rangeOf(entry.at) });
    }
    return out;
  }

  #cannotMove(from: Address, to: Address): string | undefined {
    if (from === to) return `${from} is renamed to itself`;
    if (lastSegment(from).kind !== lastSegment(to).kind) {
      return `a ${lastSegment(from).kind} cannot become a ${lastSegment(to).kind}: ${from} to ${to}`;
    }
    if (isWithin(to, from) || isWithin(from, to)) return `${from} cannot move into or out of itself: ${to}`;
    if (this.#ctx.drafts.has(from)) return `${from} is still declared, so it cannot have been renamed to ${to}`;
    return undefined;
  }

  #follow(from: Address, to: Address, targets: ReadonlyMap<Address, { readonly to: Address }>): Address | undefined {
    const seen = new Set([from]);
    for (let at = to; ; ) {
      if (seen.has(at)) return undefined;
      seen.add(at);
      const next = targets.get(at)?.to;
      if (next === undefined) return at;
      at = next;
    }
  }

  #entries(section: string): [Address, Entry][] {
    const node = entryOf(this.#ctx.lab, section)?.value;
    if (node?.type !== "map") return [];
    const out = new Map<Address, Entry>();
    for (const [text, entry] of node.entries) {
      const address = this.#address(text, entry.at);
      if (address === undefined) continue;
      if (out.has(address))
        this.#ctx.problems.error("E_YAML_DUPLICATE_KEY", `${address} stands twice in \`${section}:\``, entry.at);
      else out.set(address, entry);
    }
    return [...out];
  }

  #address(text: string, at: Place): Address | undefined {
    const address = canonicalAddress(text);
    if (address === undefined) {
      this.#ctx.problems.error(
        "E_SPEC_VALUE",
        `${JSON.stringify(text.slice(0, 100))} is not an address`,
        at,
        'addresses look like host.builder-1 or host.builder-1/file["/etc/motd"]',
      );
      return undefined;
    }
    const { kind } = lastSegment(address);
    if (!this.#ctx.tables.kinds.has(kind)) {
      this.#ctx.problems.error(
        "E_REF_UNKNOWN",
        `"${kind}" is no kind of resource`,
        at,
        this.#ctx.tables.suggestKind(kind),
      );
      return undefined;
    }
    return address;
  }

  #declared(address: Address, at: Place): boolean {
    if (this.#ctx.drafts.has(address)) return true;
    if (!this.#ctx.incomplete)
      this.#ctx.problems.error("E_REF_UNKNOWN", `there is no ${address}`, at, this.#ctx.suggest(address));
    return false;
  }
}
