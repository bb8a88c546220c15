import { type Address, type Amounts, type Group, parseSize, type Plain } from "../model/index.ts";
import { amountText } from "./amounts.ts";
import type { Candidate, Requirements, Unmet } from "./requirements.ts";
import type { Conflict, Part } from "./table.ts";

/** The resource that stands for the whole lab: what `limits:` counts. */
export const LAB: Address = "lab";

/** `groups: { NAME: { policy } }`. */
export interface GroupPolicy {
  /** Allocations on machines of the group at once. */
  readonly max_concurrent?: number;
  /** Who may use it. Absent: everybody. */
  readonly teams?: readonly string[];
  /** Added to the priority of those who ask for the group and may use it. */
  readonly priority_boost?: number;
  readonly require_approval?: boolean;
}

/** What holds in a lab for all allocations. */
export interface LabRules {
  /** Of all that labctl makes; `slots` are environments. What is absent has no limit. */
  readonly limits: Amounts;
  readonly groups: Readonly<Record<string, GroupPolicy>>;
}

/** Who asks, as far as policies care. */
export interface Claimant {
  readonly team?: string;
  /** Somebody has agreed, where a group's policy wants that. */
  readonly approved?: boolean;
}

/** A checked spec's `limits:` and `groups:`. Pure. */
export function readRules(
  limits: Readonly<Record<string, unknown>>,
  groups: Readonly<Record<string, Pick<Group, "policy">>>,
): LabRules {
  const { cpus, memory, disk, environments } = limits;
  const [memoryBytes, diskBytes] = [sizeOf(memory), sizeOf(disk)];
  return {
    limits: {
      ...(typeof cpus === "number" && { cpus }),
      ...(memoryBytes !== undefined && { memory: memoryBytes }),
      ...(diskBytes !== undefined && { disk: diskBytes }),
      ...(typeof environments === "number" && { slots: environments }),
    },
    groups: Object.fromEntries(Object.entries(groups).map(([name, { policy }]) => [name, readPolicy(policy)])),
  };
}

function readPolicy(policy: Readonly<Record<string, Plain>>): GroupPolicy {
  const { max_concurrent, teams, priority_boost, require_approval } = policy;
  return {
    ...(typeof max_concurrent === "number" && { max_concurrent }),
    ...(Array.isArray(teams) && { teams: teams.filter((one) => typeof one === "string") }),
    ...(typeof priority_boost === "number" && { priority_boost }),
    ...(typeof require_approval === "boolean" && { require_approval }),
  };
}

function sizeOf(value: unknown): number | undefined {
  return typeof value === "string" ? parseSize(value) : typeof value === "number" ? value : undefined;
}

function policyOf(rules: LabRules, group: string | undefined): GroupPolicy | undefined {
  return group !== undefined && Object.hasOwn(rules.groups, group) ? rules.groups[group] : undefined;
}

function mayUse(policy: GroupPolicy, claimant: Claimant): boolean {
  return policy.teams === undefined || (claimant.team !== undefined && policy.teams.includes(claimant.team));
}

/** The priority in the queue: the request's own, and what the group that it asks for adds. Pure. */
export function priorityOf(own: number, requires: Requirements, claimant: Claimant, rules: LabRules): number {
  const policy = policyOf(rules, requires.group);
  return policy !== undefined && mayUse(policy, claimant) ? own + (policy.priority_boost ?? 0) : own;
}

/** What an allocation on this machine takes besides the machine: its share of the lab, a place in its group. Pure. */
export function extraParts(
  one: Pick<Candidate, "group">,
  counts: Amounts | undefined,
  rules: LabRules,
): readonly Part[] {
  const most = policyOf(rules, one.group)?.max_concurrent;
  return [
    ...(counts === undefined ? [] : [{ resource: LAB, amounts: counts, capacity: rules.limits }]),
    ...(most === undefined
      ? []
      : [{ resource: groupResource(one.group ?? ""), amounts: { slots: 1 }, capacity: { slots: most } }]),
  ];
}

function groupResource(name: string): Address {
  return `group.${name}`;
}

/** What a group's policy has against this claimant. Waiting does not help. Pure. */
export function forbidden(one: Pick<Candidate, "group">, claimant: Claimant, rules: LabRules): readonly Unmet[] {
  const policy = policyOf(rules, one.group);
  if (policy === undefined) return [];
  const out: Unmet[] = [];
  if (!mayUse(policy, claimant)) {
    const who = claimant.team === undefined ? "no team is named" : `the team is ${claimant.team}`;
    const text = `its group ${one.group} is for ${(policy.teams ?? []).join(", ")}, and ${who}`;
    out.push({ what: "teams", text, permanent: true });
  }
  if (policy.require_approval === true && claimant.approved !== true) {
    out.push({ what: "approval", text: `its group ${one.group} needs an approval`, permanent: true });
  }
  return out;
}

/** A full lab or group, as a reason against a machine. Pure. */
export function extraText(part: Part, conflict: Conflict): string {
  const what = part.resource === LAB ? "the lab" : `the group ${part.resource.slice("group.".length)}`;
  if (conflict.is === "held") return `${conflict.by.holder} has ${what} for itself: ${conflict.by.reason}`;
  const { key, asked, taken, capacity, permanent } = conflict;
  const noun = (amount: number): string =>
    key === "slots" && part.resource === LAB
      ? `${amount} ${amount === 1 ? "environment" : "environments"}`
      : amountText(key, amount);
  return permanent
    ? `${what} may use ${noun(capacity)} in all, and ${noun(asked)} are asked for`
    : `${what} uses ${noun(taken)} of the ${noun(capacity)} that it may, and ${noun(asked)} more are asked for`;
}
