import { type Amounts, formatSize } from "../model/index.ts";

export const AMOUNTS = ["cpus", "memory", "disk", "slots"] as const satisfies readonly (keyof Amounts)[];

const NOUNS = { cpus: "processors", memory: "memory", disk: "disk", slots: "places" } as const;
const ONE = { ...NOUNS, cpus: "processor", slots: "place" } as const;

export function nounOf(key: keyof Amounts): string {
  return NOUNS[key];
}

/** `3 processors`, `2.0 GiB of memory`. */
export function amountText(key: keyof Amounts, amount: number): string {
  if (key === "memory" || key === "disk") return `${formatSize(amount)} of ${NOUNS[key]}`;
  return `${Math.round(amount * 100) / 100} ${amount === 1 ? ONE[key] : NOUNS[key]}`;
}

/** All that is said of amounts, for people: `2 processors, 1.0 GiB of memory`. */
export function amountsText(amounts: Amounts): string {
  const said = AMOUNTS.filter((key) => (amounts[key] ?? 0) > 0).map((key) => amountText(key, amounts[key] ?? 0));
  return said.join(", ");
}

export function sumOf(all: readonly { readonly amounts?: Amounts }[]): Required<Amounts> {
  const sum = { cpus: 0, memory: 0, disk: 0, slots: 0 };
  for (const { amounts } of all) for (const key of AMOUNTS) sum[key] += amounts?.[key] ?? 0;
  return sum;
}
