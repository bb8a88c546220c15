import { type Address, childAddress, type Defaults, isMap, type Reference, type Value } from "../model/index.ts";
import type { Kind } from "../provider/index.ts";
import { check, type CheckContext, type Spot } from "./check.ts";
import { mismatch } from "./check-base.ts";
import { keyFits, resolveKey } from "./check-map.ts";
import { combinationsOf, instancesOf } from "./instances.ts";
import { entryOf, isNull, type Entry, type MapNode, type Place, rangeOf, type SpecNode } from "./node.ts";
import { readOptions, type SpokenOptions } from "./options.ts";
import type { Problems } from "./problems.ts";
import { scalar, type Scope } from "./scope.ts";
import { type KindTables, keySchemaOf, optionsOf, userSchema } from "./tables.ts";
import { LATER_WITHIN } from "./top.ts";
import { shortened } from "./yaml.ts";

/** Most resources of one lab. */
const RESOURCE_LIMIT = 100_000;

/** A resource as it was read, its references and names not yet looked up. */
export interface Draft {
  readonly address: Address;
  readonly kind: Kind;
  readonly parent: Draft | undefined;
  readonly desired: Readonly<Record<string, Value>>;
  readonly options: SpokenOptions;
  readonly at: Place;
  readonly places: ReadonlyMap<string, Place>;
  readonly references: readonly { readonly reference: Reference; readonly at: Place }[];
  readonly refers: readonly { readonly kind: string; readonly name: string; readonly at: Place }[];
}

export interface ExpandContext {
  readonly problems: Problems;
  readonly tables: KindTables;
  readonly root: string;
  readonly defaults: Defaults;
}

/** Turns sections into resources: every key and `for_each` entry into one of its own. */
export class Expander {
  readonly drafts = new Map<Address, Draft>();
  /** What `for_each` made of a name: for hints where the name alone is referred to. */
  readonly expanded = new Map<Address, Address[]>();
  readonly #ctx: ExpandContext;
  /** By kind, the keys of its resources that are not its own: for suggestions. */
  readonly #neighbours = new Map<Kind, readonly string[]>();
  #full = false;

  constructor(ctx: ExpandContext) {
    this.#ctx = ctx;
  }

  section(kind: Kind, entry: Entry, parent: Draft | undefined, scope: Scope): void {
    const { problems } = this.#ctx;
    const node = isNull(entry.value) && kind.section.shape === "one" ? emptyMap(entry.at) : entry.value;
    if (isNull(node)) return;
    const { shape, key } = kind.section;
    if (shape === "one") {
      if (node.type !== "map") return this.#wrong(node, entry, "object");
      this.#instance(kind, entry, undefined, node, parent, scope);
      return;
    }
    if (shape === "map") {
      if (node.type !== "map") return this.#wrong(node, entry, "object");
      for (const one of node.entries.values()) this.#entry(kind, one, one.value, parent, scope);
      return;
    }
    if (node.type !== "list") return this.#wrong(node, entry, "array");
    for (const item of node.items) {
      if (item.type === "scalar" && !isNull(item)) {
        this.#entry(kind, { key: item.text, at: item, value: item }, emptyMap(item), parent, scope);
        continue;
      }
      const named = entryOf(item, key)?.value;
      if (item.type === "map" && named?.type === "scalar" && !isNull(named)) {
        const rest = new Map(item.entries);
        rest.delete(key);
        this.#entry(kind, { key: named.text, at: named, value: item }, { ...item, entries: rest }, parent, scope);
      } else if (item.type === "map" && named === undefined) {
        problems.error("E_SPEC_MISSING_KEY", `an item of "${entry.key}" needs "${key}"`, item);
      } else if (item.type === "map" && named !== undefined) {
        mismatch(named, { type: "string" }, spotOf(`"${key}"`, named), this.#check(scope));
      } else
        mismatch(
          item,
          { type: ["string", "object"] },
          spotOf(`an item of "${entry.key}"`, entry.at),
          this.#check(scope),
        );
    }
  }

  #wrong(node: SpecNode, entry: Entry, type: string): void {
    mismatch(node, { type }, spotOf(`"${entry.key}"`, entry.at), {
      problems: this.#ctx.problems,
      scope: NO_SCOPE,
      root: this.#ctx.root,
    });
  }

  #check(scope: Scope): CheckContext {
    return { problems: this.#ctx.problems, scope, root: this.#ctx.root };
  }

  #entry(kind: Kind, entry: Entry, written: SpecNode, parent: Draft | undefined, scope: Scope): void {
    const body = isNull(written) ? emptyMap(entry.at) : written;
    if (body.type !== "map") {
      mismatch(body, { type: "object" }, spotOf(`"${shortened(entry.key)}"`, entry.at), this.#check(scope));
      return;
    }
    const matrix = body.entries.get("matrix");
    if (matrix !== undefined && optionsOf(kind).has("matrix")) {
      this.#spread(kind, entry, matrix, body, parent, scope);
      return;
    }
    const each = body.entries.get("for_each");
    if (each === undefined || !optionsOf(kind).has("for_each")) {
      this.#instance(kind, entry, undefined, body, parent, scope);
      return;
    }
    const named = /\$\{each\./.test(entry.key);
    if (!named && kind.section.keySchema !== undefined) {
      this.#ctx.problems.error(
        "E_SPEC_NAME",
        `with \`for_each\` the key must say where "\${each.key}" goes: each instance needs one of its own`,
        entry.at,
        `for example "${shortened(entry.key)}-\${each.key}"`,
      );
      return;
    }
    const instances = instancesOf(each, scope, this.#ctx.problems);
    for (const one of instances) {
      this.#instance(kind, entry, named ? undefined : one.key, body, parent, { ...scope, each: one });
    }
    if (!named) {
      const made = instances.map((one) => childAddress(parent?.address, kind.kind, `${entry.key}-${one.key}`));
      this.expanded.set(childAddress(parent?.address, kind.kind, entry.key), made);
    }
  }

  /** One instance for each combination: `build.kasan` with `arch: [x86_64, arm64]` gives `build.kasan-arm64` and its like. */
  #spread(kind: Kind, entry: Entry, matrix: Entry, body: MapNode, parent: Draft | undefined, scope: Scope): void {
    const combinations = combinationsOf(matrix, scope, this.#ctx.problems);
    for (const one of combinations) this.#instance(kind, entry, one.key, body, parent, { ...scope, matrix: one });
    const made = combinations.map((one) => childAddress(parent?.address, kind.kind, `${entry.key}-${one.key}`));
    this.expanded.set(childAddress(parent?.address, kind.kind, entry.key), made);
  }

  #instance(
    kind: Kind,
    entry: Entry,
    suffix: string | undefined,
    body: MapNode,
    parent: Draft | undefined,
    scope: Scope,
  ): void {
    const { problems, root } = this.#ctx;
    const ctx: CheckContext = { problems, scope, root };
    const base = resolveKey(entry, ctx);
    if (base === undefined) return;
    const single = kind.section.shape === "one";
    const name = single ? undefined : suffix === undefined ? base : `${base}-${suffix}`;
    if (name !== undefined && !keyFits(name, entry, keySchemaOf(kind), ctx)) return;
    const address = childAddress(parent?.address, kind.kind, name);
    const known = this.drafts.get(address);
    if (known !== undefined) {
      const { file, line } = rangeOf(known.at);
      problems.error(
        "E_SPEC_DUPLICATE",
        `${address} is declared twice`,
        entry.at,
        `it is declared at ${file}:${line} already`,
      );
      return;
    }
    if (this.drafts.size >= RESOURCE_LIMIT) {
      if (!this.#full)
        problems.error(
          "E_SPEC_TOO_LARGE",
          `the lab has more than ${RESOURCE_LIMIT.toLocaleString("en")} resources`,
          entry.at,
        );
      this.#full = true;
      return;
    }
    const { own, sections, spoken } = this.#split(kind, body);
    const draft = this.#draft(kind, address, name, entry, own, spoken, parent, scope);
    this.drafts.set(address, draft);
    for (const [section, child] of sections) this.section(child, section, draft, scope);
  }

  /** The parts of a resource: its own properties, the sections inside it, what every resource can have. */
  #split(kind: Kind, body: MapNode): { own: MapNode; sections: [Entry, Kind][]; spoken: Map<string, Entry> } {
    const { tables, problems } = this.#ctx;
    const children = tables.childrenOf(kind.kind);
    const options = optionsOf(kind);
    const later = LATER_WITHIN[kind.section.name] ?? [];
    const own = new Map<string, Entry>();
    const spoken = new Map<string, Entry>();
    const sections: [Entry, Kind][] = [];
    for (const [key, entry] of body.entries) {
      const child = children.get(key);
      if (child !== undefined) sections.push([entry, child]);
      else if (options.has(key)) spoken.set(key, entry);
      else if (later.includes(key) && !Object.hasOwn(kind.schema.properties, key)) unsupported(entry, problems);
      else own.set(key, entry);
    }
    return { own: { ...body, entries: own }, sections, spoken };
  }

  #neighboursOf(kind: Kind): readonly string[] {
    const known = this.#neighbours.get(kind);
    if (known !== undefined) return known;
    const made = [...optionsOf(kind).keys(), ...this.#ctx.tables.childrenOf(kind.kind).keys()];
    this.#neighbours.set(kind, made);
    return made;
  }

  #draft(
    kind: Kind,
    address: Address,
    name: string | undefined,
    entry: Entry,
    own: MapNode,
    spoken: ReadonlyMap<string, Entry>,
    parent: Draft | undefined,
    scope: Scope,
  ): Draft {
    const { problems, root, defaults } = this.#ctx;
    const references: Draft["references"][number][] = [];
    const refers: Draft["refers"][number][] = [];
    const places = new Map<string, Place>();
    const ctx: CheckContext = {
      problems,
      scope,
      root,
      neighbours: this.#neighboursOf(kind),
      onReference: (reference, at) => references.push({ reference, at }),
      onRefers: (of, target, at) => refers.push({ kind: of, name: target, at }),
      onPlace: (path, at) => path !== "" && places.set(path, at),
    };
    const value = check(own, userSchema(kind), { path: "", label: address, at: entry.at }, ctx);
    const group = isMap(value) && kind.section.within === undefined ? value["group"] : undefined;
    // `group:` of a machine is the language's own, whatever the kind says of it.
    if (typeof group === "string" && !refers.some((one) => one.kind === "group")) {
      refers.push({ kind: "group", name: group, at: places.get("group") ?? entry.at });
    }
    return {
      address,
      kind,
      parent,
      desired: {
        ...(kind.section.key !== undefined && name !== undefined && { [kind.section.key]: name }),
        ...(isMap(value) && value),
      },
      options: readOptions(spoken, kind, { problems, scope, root }, defaults),
      at: entry.at,
      places,
      references,
      refers,
    };
  }
}

const NO_SCOPE: Scope = { variables: new Map(), secrets: new Set(), incomplete: false };

function spotOf(label: string, at: Place): Spot {
  return { path: "", label, at };
}

function emptyMap(at: Place): MapNode {
  const { source, start, end } = scalar("", true, at);
  return { type: "map", entries: new Map(), source, start, end };
}

export function unsupported(entry: Entry, problems: Problems): void {
  problems.error(
    "E_SPEC_UNSUPPORTED",
    `"${entry.key}" is not there yet in this version of labctl`,
    entry.at,
    "it is part of the language and comes with a later version; leave it out until then",
  );
}
