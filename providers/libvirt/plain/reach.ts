import {
  type Address,
  type ConnectionProperties,
  type ConnectionSpec,
  type Item,
  type KindContext,
  LabError,
  sh,
} from "../../../src/index.ts";
import type { VmDesired } from "../model/vm-schema.ts";
import type { VmObserved } from "../vm-model.ts";
import { connectionTo } from "../guest-connection.ts";
import { plainHost } from "./host.ts";
import { askMachine, findMachine } from "./look.ts";
import { forwardedPort } from "./monitor.ts";
import { guestPort } from "./vm.ts";

/**
 * The way to a machine that QEMU alone runs: through its host, where a port of 127.0.0.1 leads to it (QEMU says which), or where its
 * neighbours on a bridge know its address. Rejects with E_CONNECT where it is not there, does not run or has no way in.
 */
export async function reachPlain(
  ctx: KindContext,
  on: Address,
  item: Item<VmDesired, VmObserved>,
): Promise<ConnectionSpec> {
  const { address, desired } = item;
  const host = await plainHost(ctx, on);
  const found = await findMachine(ctx, host, item, []);
  const seen = await askMachine(ctx, host, found);
  if (found.definition === undefined || seen === undefined) {
    throw new LabError(
      "E_CONNECT",
      `${address} ${found.definition === undefined ? "is not there" : `does not run on ${on}`}`,
      {
        address,
        hint: "`labctl apply` makes and starts it; `labctl plan` says what is in the way",
      },
    );
  }
  const { connection } = host.machine;
  const context = ctx.around(address);
  const ssh = desired.ssh as ConnectionProperties["ssh"];
  const port = forwardedPort(seen.usernet, guestPort(desired));
  if (port !== undefined) return connectionTo({ ssh: { ...ssh, port }, context }, "127.0.0.1", connection);
  const neighbours = await host.machine.probe(sh`ip neigh show`, { signal: ctx.signal });
  const macs = found.definition.model.networks.map((nic) => nic.mac);
  const at = neighbourOf(neighbours.stdout.toString("utf8"), macs);
  if (at !== undefined) return connectionTo({ ...(ssh && { ssh }), context }, at, connection);
  throw new LabError("E_CONNECT", `${address} runs on ${on}, and nothing leads to it`, {
    address,
    hint: "give it a card on QEMU's own network (`networks: [{ user: true }]`); one that was started for another `ssh: { port }` needs a restart",
  });
}

/** Pure. The address that has one of these MACs, from `ip neigh show`: IPv4 first, never link-local. */
export function neighbourOf(text: string, macs: readonly string[]): string | undefined {
  const known = text.split("\n").flatMap((line) => {
    const [, address, mac] = /^(\S+) .*lladdr (\S+) (?!.*FAILED)/.exec(`${line} `) ?? [];
    return address !== undefined && mac !== undefined && macs.includes(mac) && !/^fe[89ab]/i.test(address)
      ? [address]
      : [];
  });
  return known.find((one) => !one.includes(":")) ?? known[0];
}
