import { LabError } from "../diagnostics/index.ts";
import { type Address, isWithin, lastSegment, type Lease, type Plain, type Row } from "../model/index.ts";
import { endText } from "./leases.ts";

/** Something that would lose its machine. */
export interface Workload {
  readonly what: string;
  /** Until when, or since when, for people. */
  readonly detail: string;
}

export interface DecommissionDecision {
  readonly allowed: boolean;
  /** What is active there; with `force` it goes on, on a machine that takes nothing new. */
  readonly active: readonly Workload[];
}

/** Whether a machine may be taken out of the lab: never while something is active there, but with `force`. Pure. */
export function decommission(active: readonly Workload[], force: boolean): DecommissionDecision {
  return { allowed: force || active.length === 0, active };
}

/**
 * What is active on a machine: whoever leases some of it, and what the state has there that runs. What is declared on the machine
 * itself (files, packages, services) is a part of it, and no workload. Pure.
 */
export function workloadsOn(
  address: Address,
  leases: readonly Lease[],
  rows: Iterable<Row>,
  now: number,
): readonly Workload[] {
  const leased = leases
    .filter((lease) => isWithin(lease.resource, address))
    .map((lease): Workload => ({ what: lease.holder, detail: `${lease.reason}, ${endText(lease, now)}` }));
  const placed = [...rows]
    .filter((row) => !isWithin(row.address, address) && isActive(row) && isOn(row, address))
    .map((row): Workload => ({ what: row.address, detail: `${row.kind}, ${row.status} since ${row.updated_at}` }));
  return [...leased, ...placed];
}

/** Kinds that run on a machine of another kind. */
const RUNNING = new Set(["vm", "environment", "stack"]);

/** Stopped machines count: their disks are there. A build that is done does not; one that runs holds a lease. */
function isActive(row: Row): boolean {
  return RUNNING.has(row.kind) && row.parent === undefined;
}

function isOn(row: Row, address: Address): boolean {
  const name = lastSegment(address).key;
  return [row.observed, row.desired].some((value) => {
    const host = hostOf(value);
    return host !== undefined && (host === address || host === name);
  });
}

function hostOf(value: Plain): string | undefined {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return undefined;
  const { host } = value as Readonly<Record<string, Plain>>;
  return typeof host === "string" ? host : undefined;
}

/** E_ACTIVE_WORKLOADS, with all that is active. */
export function decommissionError(address: Address, active: readonly Workload[]): LabError {
  const list = active.map((one) => `  ${one.what}: ${one.detail}`).join("\n");
  return new LabError("E_ACTIVE_WORKLOADS", `${address} is in use, and stays in the lab:\n${list}`, {
    address,
    hint: "wait for it, destroy it or give it back (`labctl release`); or take the machine out all the same with --force",
  });
}
