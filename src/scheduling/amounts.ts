import { type Amounts, formatSize } from "../model/index.ts";

export const AMOUNTS = ["cpus", "memory", "disk", "slots", "builds"] as const satisfies readonly (keyof Amounts)[];

const NOUNS = {
  cpus: "processors",
  memory: "memory",
  disk: "disk",
  slots: "places",
  builds: "places for builds",
} as const;
const ONE = { ...NOUNS, cpus: "processor", slots: "place", builds: "place for a build" } as const;

/** Places are taken one by one, by whatever comes to a machine that counts them; of the rest only what is asked for. */
export function isPlace(key: keyof Amounts): key is "slots" | "builds" {
  return key === "slots" || key === "builds";
}

export function nounOf(key: keyof Amounts, amount = 2): string {
  return (amount === 1 ? ONE : NOUNS)[key];
}

/** `3 processors`, `2.0 GiB of memory`. */
export function amountText(key: keyof Amounts, amount: number): string {
  if (key === "memory" || key === "disk") return `${formatSize(amount)} of ${NOUNS[key]}`;
  return `${Math.round(amount * 100) / 100} ${nounOf(key, amount)}`;
}

/** All that is said of amounts, for people: `2 processors, 1.0 GiB of memory`. */
export function amountsText(amounts: Amounts): string {
  const said = AMOUNTS.filter((key) => (amounts[key] ?? 0) > 0).map((key) => amountText(key, amounts[key] ?? 0));
  return said.join(", ");
}

export function sumOf(all: readonly { readonly amounts?: Amounts }[]): Required<Amounts> {
  const sum = { cpus: 0, memory: 0, disk: 0, slots: 0, builds: 0 };
  for (const { amounts } of all) for (const key of AMOUNTS) sum[key] += amounts?.[key] ?? 0;
  return sum;
}
