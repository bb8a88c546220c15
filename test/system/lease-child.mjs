// A process of its own that takes what it can of one machine: node lease-child.mjs MODULES DIR WITNESS HOLDER ROUNDS.
// While it has a lease, a file of its name stands in WITNESS: what others see there is what is in use at that moment.
import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, dir, witness, holder, rounds] = process.argv.slice(2);
const { createScheduler } = await import(pathToFileURL(`${modules}/src/scheduling/index.js`).href);

const say = (line) =>
  new Promise((resolve) => {
    process.stdout.write(`${line}\n`, resolve);
  });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const scheduler = createScheduler({
  dir,
  owner: holder,
  run: String(process.pid),
  rules: { limits: { memory: 10 }, groups: {} },
  poll: 20,
  timeout: 60_000,
});
const machine = { address: "host.a", name: "a", status: "online", arch: "x86_64", total: { slots: 3 }, reserved: {} };

for (let round = 0; round < Number(rounds); round++) {
  // Which part of the lab's memory it wants differs, so that the lab is what is short at times.
  const memory = 1 + ((process.pid + round) % 5);
  const allocation = await scheduler.allocate(
    { what: "work", requires: {}, counts: { memory } },
    { candidates: async () => [machine], wait: true },
  );
  const mark = join(witness, `${process.pid}.${memory}`);
  writeFileSync(mark, "");
  await say(`has ${readdirSync(witness).join(" ")}`);
  await pause(100 + Math.random() * 150);
  rmSync(mark);
  await allocation.release();
}
await scheduler.close();
await say("done");
