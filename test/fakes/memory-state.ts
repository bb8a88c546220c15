import type { Address, Checkpoint, Hold, Plain, Row } from "../../src/model/index.ts";
import type { StateSession } from "../../src/state/port.ts";

/** A state session that keeps everything in memory; `fail` makes the next write of that sort reject. */
export class MemoryState implements StateSession {
  readonly scope = "lab";
  readonly lineage = "lineage";
  readonly serial = 1;
  lab: string | undefined;
  readonly rows = new Map<Address, Row>();
  outputs: Readonly<Record<string, Plain>> = {};
  readonly holds = new Map<Address, Hold>();
  readonly takenOver = undefined;
  readonly lock = { token: 1, holder: "test", pid: 1, host: "test", purpose: "test", since: "", lease_until: 0 };
  /** What was written, in order. */
  readonly journal: string[] = [];
  fail: ((entry: string) => Error | undefined) | undefined;
  readonly #open = new Map<string, Row>();

  async #write(entry: string): Promise<void> {
    const error = this.fail?.(entry);
    if (error !== undefined) throw error;
    this.journal.push(entry);
  }
  async setLab(lab: string): Promise<void> {
    await this.#write("lab");
    this.lab = lab;
  }
  async begin(record: Parameters<StateSession["begin"]>[0]): Promise<void> {
    await this.#write(`begin ${record.action} ${record.row.address}`);
    this.#open.set(record.op, record.row);
    this.rows.set(record.row.address, record.row);
  }
  async checkpoint(op: string, checkpoint: Checkpoint): Promise<void> {
    await this.#write(`checkpoint ${checkpoint.step}`);
    const row = this.#open.get(op);
    if (row !== undefined) this.rows.set(row.address, { ...row, checkpoint });
  }
  async end(record: Parameters<StateSession["end"]>[0]): Promise<void> {
    const begun = this.#open.get(record.op);
    await this.#write(`end ${record.result} ${begun?.address}`);
    this.#open.delete(record.op);
    if (begun === undefined) return;
    if (record.row === null) this.rows.delete(begun.address);
    else this.rows.set(begun.address, record.row ?? { ...begun, status: "failed" });
  }
  async put(row: Row): Promise<void> {
    await this.#write(`put ${row.address}`);
    this.rows.set(row.address, row);
  }
  async drop(address: Address): Promise<void> {
    await this.#write(`drop ${address}`);
    this.rows.delete(address);
  }
  async move(from: Address, to: Address): Promise<void> {
    await this.#write(`move ${from} ${to}`);
    const row = this.rows.get(from);
    if (row === undefined) return;
    this.rows.delete(from);
    this.rows.set(to, { ...row, address: to });
  }
  async setOutputs(outputs: Readonly<Record<string, Plain>>): Promise<void> {
    await this.#write("outputs");
    this.outputs = outputs;
  }
  async setHold(address: Address, hold: Hold | null): Promise<void> {
    await this.#write(`hold ${address}`);
    if (hold === null) this.holds.delete(address);
    else this.holds.set(address, hold);
  }
  async assertHeld(): Promise<void> {}
  async close(): Promise<void> {}
}
