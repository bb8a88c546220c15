import { LabError } from "../diagnostics/index.ts";
import type { Address, Lease } from "../model/index.ts";
import { timeAfter } from "./leases.ts";
import type { Selection } from "./select.ts";
import type { TableFile } from "./store.ts";
import { findSame, replaceLease, type Table } from "./table.ts";

/** A machine that was leased, with its share of what the lab and its group may use. It ends with this process, until `hold`. */
export class Allocation {
  /** The machine. */
  readonly address: Address;
  readonly holder: string;
  /** Why it is this one, and what else was there. */
  readonly selection: Selection;
  readonly #file: TableFile;
  readonly #lost = new AbortController();
  readonly #onEnd: () => void;
  #leases: readonly Lease[];

  constructor(file: TableFile, selection: Selection, leases: readonly Lease[], onEnd: () => void) {
    this.#file = file;
    this.selection = selection;
    this.#leases = leases;
    this.#onEnd = onEnd;
    this.address = leases[0]?.resource ?? "";
    this.holder = leases[0]?.holder ?? "";
  }

  /** Of the machine first. Their epochs are what a marker on the machine carries. */
  get leases(): readonly Lease[] {
    return this.#leases;
  }

  get tied(): readonly Lease[] {
    return this.#leases.filter((lease) => lease.process !== undefined);
  }

  /** Aborted when somebody else has it: nothing may be done there any more. */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** What it was taken for is there, and counted by whoever looks at the machine. Rejects with E_STATE_NOT_FOUND when lost. */
  placed(): Promise<void> {
    return this.#change((lease) => ({ ...lease, placed: true }));
  }

  /**
   * What was made stays when this process ends: the lease is good for so many milliseconds from now (`Infinity`: until it is
   * released), and is given back by whoever deletes it. Implies `placed`. Rejects with E_STATE_NOT_FOUND when lost.
   */
  async hold(ttl: number): Promise<void> {
    await this.#change(({ process: _process, expected_end: _end, ...lease }, until) => ({
      ...lease,
      placed: true,
      until: until(ttl),
    }));
    this.#onEnd();
  }

  /** Gives back what is still its own. */
  release(): Promise<void> {
    return this.#release(this.#leases);
  }

  /** Gives back what would end with this process; what is held stays. */
  end(): Promise<void> {
    return this.#release(this.tied);
  }

  async #release(leases: readonly Lease[]): Promise<void> {
    this.#onEnd();
    if (leases.length === 0) return;
    await this.#file.transact(this.holder, undefined, (table) => {
      let next: Table = table;
      for (const lease of leases) {
        const current = findSame(next, lease);
        if (current !== undefined) next = replaceLease(next, current, undefined);
      }
      return { result: undefined, ...(next !== table && { table: next }) };
    });
  }

  /** It was given back elsewhere. */
  forget(): void {
    this.#onEnd();
  }

  lose(): void {
    this.#onEnd();
    this.#lost.abort(this.#gone());
  }

  #gone(): LabError {
    return new LabError("E_STATE_NOT_FOUND", `${this.holder} no longer has ${this.address}`, {
      address: this.address,
      hint: "it was released by hand, or lapsed while this process stood still; run again",
    });
  }

  async #change(change: (lease: Lease, until: (ttl: number) => string) => Lease): Promise<void> {
    this.#leases = await this.#file.transact(this.holder, undefined, (table, now) => {
      let next: Table = table;
      const changed = this.#leases.map((lease) => {
        const current = findSame(next, lease);
        if (current === undefined) throw this.#gone();
        const made = change(current, (ttl) => timeAfter(now, ttl));
        next = replaceLease(next, current, made);
        return made;
      });
      return { result: changed, table: next };
    });
  }
}
