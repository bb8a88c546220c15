import { LabError } from "../diagnostics/index.ts";
import {
  type ActionType,
  type Address,
  canonicalText,
  decodeValue,
  encodeValue,
  isMap,
  type Plain,
  type PlannedAction,
  type PropertyChange,
  type Reason,
  type Resource,
  type Row,
  sameEncoded,
  Template,
  Unknown,
  Sensitive,
  type Value,
  type ValueMap,
} from "../model/index.ts";
import type { PlanKind, PlanReading } from "./kind.ts";
import type { PlanInput } from "./input.ts";
import { absentReason, prevented, refreshVerdict, unreachable, updateReason } from "./reasons.ts";
import { dig, type ReferenceSources, resolveMap } from "./resolve.ts";
import {
  concealed,
  concealedView,
  diffOf,
  driftOf,
  encodeObserved,
  maskChanges,
  observedTaints,
  priorOf,
  type View,
  viewOf,
  wrapObserved,
} from "./view.ts";

/** What was decided for one address, with what others may refer to. */
export interface Decision {
  readonly action: PlannedAction;
  readonly resolved: ValueMap;
  readonly observed: ValueMap | undefined;
}

/** Actions that carry a resource through the stages of its kind. */
const STAGED: ReadonlySet<ActionType> = new Set(["create", "update", "replace"]);

/** Decides the action for each address. Called in dependency order, so that references find what was decided before. */
export class Decider {
  readonly decisions = new Map<Address, Decision>();
  readonly #input: PlanInput;
  readonly #replace: ReadonlySet<Address>;
  readonly #removed: ReadonlyMap<Address, boolean>;

  constructor(input: PlanInput, replace: ReadonlySet<Address>) {
    this.#input = input;
    this.#replace = replace;
    this.#removed = new Map(input.removed.map((one) => [one.address, one.forget]));
  }

  /** References as seen at this moment of planning. */
  sources(): ReferenceSources {
    return {
      secret: this.#input.secret,
      attribute: (address, path) => this.#attribute(address, path),
    };
  }

  #attribute(address: Address, path: readonly string[]): Value | undefined {
    const [head = ""] = path;
    const decision = this.decisions.get(address);
    if (decision === undefined) {
      const row = this.#input.rows.get(address);
      if (row === undefined) return undefined;
      const stored = [decodeValue(row.desired), decodeValue(row.observed)].find(
        (one) => isMap(one) && one[head] !== undefined,
      );
      return dig(stored, path);
    }
    if (decision.resolved[head] !== undefined) return dig(decision.resolved, path);
    const settled = decision.action.action === "noop" || decision.action.action === "adopt";
    if (!settled || decision.observed === undefined) return undefined;
    return dig(decision.observed, path) ?? null;
  }

  decide(resource: Resource, selected: boolean): void {
    const { address } = resource;
    const kind = this.#kind(resource.kind, address);
    const row = this.#input.rows.get(address);
    const { resolved, view } = this.#resolve(resource, kind);
    const taints = observedTaints(kind, view);
    const reading = selected ? this.#reading(resource, kind) : rowReading(row);
    const observed = reading.is === "present" ? wrapObserved(reading.value, taints) : undefined;
    const after = encodeValue(resolved, this.#input.seal);
    const before = reading.is === "present" ? encodeObserved(kind, reading.value, taints, this.#input.seal) : undefined;
    const changes =
      reading.is === "present" ? this.#changes(resource, kind, view, taints, reading.value, row, resolved) : [];
    const drift =
      row !== undefined && row.status === "ok" && before !== undefined ? driftOf(kind, row.observed, before) : [];
    const verdict = selected
      ? this.#verdict(resource, kind, row, reading, changes, after)
      : ({ action: "noop", reason: { code: "unchanged", text: "not selected" } } as const);
    this.decisions.set(address, {
      resolved,
      observed,
      action: {
        address,
        kind: resource.kind,
        ...(resource.parent !== undefined && { parent: resource.parent }),
        ...verdict,
        ...(before !== undefined && { before }),
        after,
        desired: encodeValue(concealed(resource.desired, kind), this.#input.seal),
        changes:
          verdict.action === "create" ? creation(resolved, this.#input.seal) : verdict.action === "noop" ? [] : changes,
        drift,
        ...(verdict.action === "create" &&
          reading.is === "absent" &&
          reading.placement !== undefined && { placement: reading.placement }),
        envelope: {
          action: verdict.action,
          properties: changes.map((change) => change.path),
          exact: this.#input.refreshed,
        },
        after_actions: [],
        after_soft: [],
        depends: resource.depends,
        options: resource.options,
        ...(kind.stages !== undefined && STAGED.has(verdict.action) && { stages: kind.stages }),
        ...this.#origin(address),
        at: resource.at,
      },
    });
  }

  #origin(address: Address): Pick<PlannedAction, "moved_from" | "import_id"> {
    const moved = this.#input.movedFrom.get(address);
    const id = this.#input.imports.get(address);
    return { ...(moved !== undefined && { moved_from: moved }), ...(id !== undefined && { import_id: id }) };
  }

  #resolve(resource: Resource, kind: PlanKind): { resolved: ValueMap; view: View } {
    const derived = Object.fromEntries(
      Object.entries(this.#input.derived.get(resource.address) ?? {}).map(([key, value]) => [
        key,
        value ?? new Unknown(new Template([])),
      ]),
    );
    return concealedView({ ...resolveMap(resource.desired, this.sources()), ...derived }, kind);
  }

  /** What is there, as far as it can be known: the contents of a machine that is yet to be made are not there. */
  #reading(resource: Resource, kind: PlanKind): PlanReading {
    const parent = resource.parent === undefined ? undefined : this.decisions.get(resource.parent)?.action;
    const parentKind = parent && this.#input.kinds.get(parent.kind);
    if (parentKind?.ownership === "exclusive" && (parent?.action === "create" || parent?.action === "replace"))
      return { is: "absent" };
    return (
      this.#input.readings.get(resource.address) ?? { is: "unreachable", why: new Error(`${kind.kind} was not read`) }
    );
  }

  #changes(
    resource: Resource,
    kind: PlanKind,
    view: View,
    taints: ReadonlySet<string>,
    observed: Record<string, Plain>,
    row: Row | undefined,
    resolved: ValueMap,
  ): PropertyChange[] {
    const diffs = diffOf(
      kind,
      { desired: view.plain, observed, prior: row && priorOf(row), sensitive: view.sensitive, unknown: view.unknown },
      resource.options.lifecycle?.ignore_changes,
    );
    const changes = maskChanges(kind, diffs, taints, this.#input.seal);
    for (const path of new Set([...view.unknown].map((one) => one.split(".")[0] ?? one))) {
      if (resource.options.lifecycle?.ignore_changes?.includes(path)) continue;
      const value = resolved[path];
      changes.push({ path, after: encodeValue(value, this.#input.seal), effect: "update" });
    }
    return changes;
  }

  #verdict(
    resource: Resource,
    kind: PlanKind,
    row: Row | undefined,
    reading: PlanReading,
    changes: readonly PropertyChange[],
    after: Plain,
  ): { action: ActionType; reason: Reason } {
    const blocked = this.#blockedBy(resource);
    if (blocked !== undefined) return { action: "blocked", reason: blocked };
    if (reading.is === "unreachable") return { action: "blocked", reason: unreachable(reading.why) };
    if (reading.is === "absent") return { action: "create", reason: absentReason(row) };
    const moved = this.#input.movedFrom.get(resource.address);
    if (reading.is === "unverified") {
      if (row !== undefined && sameEncoded(row.desired, after)) {
        return { action: "noop", reason: { code: "unchanged", text: `unverified since ${reading.since}` } };
      }
      return { action: "update", reason: { code: "changed", text: "cannot be read without disturbing it" } };
    }
    if (row === undefined) {
      const wanted = this.#input.imports.has(resource.address);
      if (kind.ownership === "exclusive" && !wanted && !adopts(after)) {
        return {
          action: "blocked",
          reason: { code: "not-owned", text: "it exists and is not labctl's: import it, or write `adopt: true`" },
        };
      }
      if (changes.length > 0)
        return {
          action: "update",
          reason: { code: wanted ? "imported" : "new", text: "taken over and changed to what the spec says" },
        };
      return {
        action: "adopt",
        reason: { code: wanted ? "imported" : "already-there", text: wanted ? "imported" : "already as the spec says" },
      };
    }
    const replace = this.#replaceReason(resource, row, changes);
    if (replace !== undefined) {
      if (resource.options.lifecycle?.prevent_destroy === true) return prevented("replacing");
      return { action: "replace", reason: replace };
    }
    if (changes.length > 0) return { action: "update", reason: updateReason(row, after) };
    if (row.status !== "ok")
      return {
        action: "adopt",
        reason: { code: "interrupted", text: "an interrupted operation had brought it there" },
      };
    if (moved !== undefined) return { action: "adopt", reason: { code: "moved", text: `was ${moved}` } };
    if (!this.#recorded(resource, row, after)) {
      return {
        action: "adopt",
        reason: { code: "recorded", text: "the spec changed in a way that needs no work: only the state does" },
      };
    }
    return { action: "noop", reason: { code: "unchanged", text: "as the spec says" } };
  }

  #recorded(resource: Resource, row: Row, after: Plain): boolean {
    return (
      sameEncoded(row.desired, after) &&
      canonicalText([...row.depends]) === canonicalText([...resource.depends]) &&
      JSON.stringify(row.options) === JSON.stringify(resource.options)
    );
  }

  #blockedBy(resource: Resource): Reason | undefined {
    const needs = [...(resource.parent === undefined ? [] : [resource.parent]), ...resource.depends];
    for (const on of needs) {
      const decision = this.decisions.get(on)?.action;
      if (decision?.action !== "blocked" || decision.options.optional === true) continue;
      return { code: "dependency-blocked", text: `${on} is blocked` };
    }
    return undefined;
  }

  #replaceReason(resource: Resource, row: Row, changes: readonly PropertyChange[]): Reason | undefined {
    if (this.#replace.has(resource.address)) return { code: "requested", text: "asked for with --replace" };
    if (row.status === "tainted") return { code: "requested", text: "marked to be replaced" };
    const forced = changes.find((change) => change.effect === "replace");
    if (forced !== undefined) return { code: "changed", text: `${forced.path} cannot be changed in place` };
    for (const trigger of resource.options.lifecycle?.replace_when ?? []) {
      if (this.#triggered(trigger)) return { code: "dependency-replaced", text: `${trigger} changes` };
    }
    return undefined;
  }

  #triggered(trigger: string): boolean {
    const whole = this.decisions.get(trigger)?.action;
    if (whole !== undefined) return ["create", "update", "replace", "delete"].includes(whole.action);
    const dot = trigger.lastIndexOf(".");
    const owner = this.decisions.get(trigger.slice(0, dot))?.action;
    return (
      owner !== undefined &&
      (owner.action === "replace" || owner.changes.some((change) => change.path === trigger.slice(dot + 1)))
    );
  }

  /** An address that only the state knows, or any under destroy and refresh-only. Called with dependents first. */
  decideRow(row: Row, resource: Resource | undefined): void {
    const kind = this.#kind(row.kind, row.address);
    const desired = decodeValue(row.desired);
    const view = viewOf(isMap(desired) ? desired : {}, kind);
    const taints = observedTaints(kind, view);
    const reading = this.#input.readings.get(row.address) ?? rowReading(row);
    const before = reading.is === "present" ? encodeObserved(kind, reading.value, taints, this.#input.seal) : undefined;
    const drift = row.status === "ok" && before !== undefined ? driftOf(kind, row.observed, before) : [];
    const verdict =
      this.#input.mode === "refresh-only" ? refreshVerdict(row, reading, drift) : this.#deleteVerdict(row, reading);
    this.decisions.set(row.address, {
      resolved: isMap(desired) ? desired : {},
      observed: undefined,
      action: {
        address: row.address,
        kind: row.kind,
        ...(row.parent !== undefined && { parent: row.parent }),
        ...verdict,
        ...(before !== undefined && { before }),
        ...(this.#input.mode === "refresh-only" && { after: row.desired, desired: row.desired }),
        changes: [],
        drift,
        envelope: { action: verdict.action, properties: [], exact: this.#input.refreshed },
        after_actions: [],
        after_soft: [],
        depends: row.depends,
        options: row.options,
        ...this.#origin(row.address),
        ...(resource !== undefined && { at: resource.at }),
      },
    });
  }

  #deleteVerdict(row: Row, reading: PlanReading): { action: ActionType; reason: Reason } {
    const forget = [...this.#removed].some(
      ([address, gone]) => gone && (row.address === address || row.address.startsWith(`${address}/`)),
    );
    if (forget) return { action: "forget", reason: { code: "forgotten", text: "`removed:` says to forget it" } };
    if (row.options.lifecycle?.prevent_destroy === true) return prevented("deleting");
    const parent = row.parent === undefined ? undefined : this.#input.rows.get(row.parent);
    const containerGoes =
      parent !== undefined &&
      this.#input.kinds.get(parent.kind)?.ownership === "exclusive" &&
      this.#leaves(parent.address);
    if (containerGoes) return { action: "forget", reason: { code: "removed", text: `goes with ${parent.address}` } };
    switch (reading.is) {
      case "unreachable":
        return { action: "blocked", reason: unreachable(reading.why) };
      case "absent":
        return { action: "forget", reason: { code: "missing", text: "already gone" } };
      case "present":
      case "unverified":
        return {
          action: "delete",
          reason: {
            code: "removed",
            text: this.#input.mode === "destroy" ? "destroy was asked for" : "no longer in the spec",
          },
        };
    }
  }

  #leaves(address: Address): boolean {
    return this.#input.mode === "destroy"
      ? this.#input.selected.has(address)
      : !this.#input.resources.some((one) => one.address === address);
  }

  #kind(name: string, address: Address): PlanKind {
    const kind = this.#input.kinds.get(name);
    if (kind === undefined) {
      throw new LabError("E_PROVIDER_NOT_FOUND", `no provider serves the kind "${name}"`, {
        address,
        hint: "name the provider under `providers:`, or drop the resource from the state with `labctl state rm`",
      });
    }
    return kind;
  }
}

/** What the state last saw, in place of a reading: under `--no-refresh`, and for what a plan leaves out. */
export function rowReading(row: Row | undefined): PlanReading {
  const observed = row === undefined || row.observed === null ? undefined : decodeValue(row.observed);
  return observed !== undefined && isMap(observed)
    ? { is: "present", value: viewOf(observed, undefined).plain }
    : { is: "absent" };
}

function creation(resolved: ValueMap, seal: (text: string) => string | undefined): PropertyChange[] {
  return Object.entries(resolved)
    .filter(([, value]) => value !== undefined)
    .map(([path, value]) => ({
      path,
      after: encodeValue(value, seal),
      effect: "update" as const,
      ...(value instanceof Sensitive && { sensitive: true }),
    }));
}

function adopts(after: Plain): boolean {
  return (
    after !== null &&
    typeof after === "object" &&
    !Array.isArray(after) &&
    (after as Record<string, Plain>)["adopt"] === true
  );
}
