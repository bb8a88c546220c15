import { hostname } from "node:os";
import type { Command } from "commander";
import { LabError } from "../../diagnostics/index.ts";
import { type Address, type Amounts, canonicalAddress, type Lease, parseSize, type Waiter } from "../../model/index.ts";
import { type Context, countOption, durationOption, selectionOf, whoAmI } from "../context.ts";
import { fact, findHost, hostsOf, type Known } from "../hosts.ts";
import { summaryOf, withLab } from "../lab.ts";
import type { Host } from "../program.ts";
import { paintFor } from "../renderers/paint.ts";
import { renderTable } from "../renderers/table.ts";
import { minute, visible } from "../renderers/text.ts";
import { changeState, stateOfLab } from "../state-access.ts";
import { styleOf } from "./plan.ts";

interface ReserveFlags {
  readonly reason?: string;
  readonly for: number;
  readonly cpus?: number;
  readonly memory?: number;
  readonly disk?: number;
}

interface ReleaseFlags {
  readonly holder?: string;
  readonly force?: boolean;
}

/** Loaded when it is used: most commands need none of it. */
const scheduling = () => import("../../scheduling/index.ts");

/** As long as an environment is held where nothing else is said. */
const DEFAULT_FOR = 4 * 3_600_000;

export function registerLease(program: Command, host: Host): void {
  const reserve = program
    .command("reserve")
    .argument("<host>", "its name or address")
    .summary("keep a machine, or some of it, for yourself")
    .description(
      "Reserves a machine for you: builds and environments wait for it, and nobody else can reserve it, until you release it or the time is over. What runs there goes on. With --cpus, --memory or --disk only so much of it. Asking again prolongs it.",
    )
    .option("--reason <text>", "why (required)")
    .option("--for <duration>", "for how long", (text) => durationOption("--for", text), DEFAULT_FOR)
    .option("--cpus <n>", "only so many processors", (text) => countOption("--cpus", text))
    .option("--memory <size>", "only so much memory", (text) => sizeOption("--memory", text))
    .option("--disk <size>", "only so much disk", (text) => sizeOption("--disk", text));
  describeDefault(reserve, "--for", "4h");
  reserve.addHelpText(
    "after",
    "\nExamples:\n  labctl reserve kvm-1 --reason 'bisecting a hang' --for 2h\n  labctl reserve builder-1 --reason 'a build by hand' --cpus 8 --memory 16GiB\n\nExit codes: 8 somebody else has it, or it has not so much.",
  );
  reserve.action(async (name: string, flags: ReserveFlags) => {
    await host.invoke((context) => reserveHost(context, name, flags), reserve);
  });

  const release = program
    .command("release")
    .argument("<address>", "what was reserved")
    .summary("give back what you reserved")
    .description(
      "Gives back what you reserved there. With --holder, what somebody else has: a run that is at work loses it only with --force, and stops.",
    )
    .option("--holder <text>", "whose, as `labctl leases` shows it (default: yours)")
    .option("--force", "also where a run is at work with it")
    .addHelpText(
      "after",
      "\nExamples:\n  labctl release kvm-1\n  labctl release kvm-1 --holder 'kernel-lab/pipeline/ci environment.smoke'",
    );
  release.action(async (name: string, flags: ReleaseFlags) => {
    await host.invoke((context) => releaseLease(context, name, flags), release);
  });

  const leases = program
    .command("leases")
    .argument("[address]", "only what is reserved there")
    .summary("who has which machine, and who waits")
    .description(
      "Lists what is reserved of the lab's machines and limits, by whom and until when, and who waits for it.",
    )
    .addHelpText("after", "\nExamples:\n  labctl leases\n  labctl leases kvm-1\n  labctl leases --json");
  leases.action(async (name: string | undefined) => {
    await host.invoke((context) => listLeases(context, name), leases);
  });
}

/** Milliseconds are for the program: help shows what people would type. */
function describeDefault(command: Command, flag: string, text: string): void {
  const option = command.options.find((one) => one.long === flag);
  if (option !== undefined) option.defaultValueDescription = text;
}

function me(context: Context): string {
  return `${whoAmI(context.term.io.env)}@${hostname()}`;
}

async function reserveHost(context: Context, name: string, flags: ReserveFlags): Promise<number> {
  const { term, services, signals } = context;
  const reason = (flags.reason ?? "").trim();
  if (reason === "") {
    throw new LabError("E_USAGE", "say why with --reason: others will ask", {
      hint: "for example --reason 'bisecting a hang' --for 2h",
    });
  }
  if (flags.for <= 0) throw new LabError("E_USAGE", "--for takes some time", { hint: "for example 30m or 4h" });
  const started = performance.now();
  const options = { command: "reserve", selection: selectionOf(context), record: true, stream: false };
  return withLab(context, options, async ({ session, view }) => {
    await view.pause();
    const known = findHost(await hostsOf(context, session), name);
    const { address } = known.resource;
    const { cpus, memory, disk } = flags;
    const amounts = {
      ...(cpus !== undefined && { cpus }),
      ...(memory !== undefined && { memory }),
      ...(disk !== undefined && { disk }),
    };
    const part =
      Object.keys(amounts).length === 0
        ? { resource: address }
        : { resource: address, amounts, capacity: capacityOf(known) };
    const { amountsText } = await scheduling();
    const table = await services.openLeases(session.lab.state);
    const [lease] = await table.reserve(
      { parts: [part], holder: me(context), reason, ttl: flags.for },
      signals.cancellation.soft,
    );
    if (term.options.json) term.json(lease);
    else if (lease !== undefined) {
      const what = lease.amounts === undefined ? "is yours" : `has ${amountsText(lease.amounts)} for you`;
      term.out(`${visible(address)} ${what} until ${minute(lease.until)}. Give it back with:`);
      term.out(`  labctl release ${quoted(address)}`);
    }
    return summaryOf("reserve", 0, started);
  });
}

/** As far as the machine was looked at: without, nothing is said to be too much. */
function capacityOf(known: Known): Amounts {
  const [cpus, memory, disk] = [fact(known, "cores"), fact(known, "memory"), fact(known, "disk_total")];
  return {
    ...(typeof cpus === "number" && { cpus }),
    ...(typeof memory === "number" && { memory }),
    ...(typeof disk === "number" && { disk }),
  };
}

async function releaseLease(context: Context, name: string, flags: ReleaseFlags): Promise<number> {
  const { term, services } = context;
  return changeState(context, selectionOf(context), "release", async ({ settings }) => {
    const table = await services.openLeases(settings);
    const there = (await table.list()).filter((lease) => isNamed(lease.resource, name));
    const holder = flags.holder ?? me(context);
    const lease = there.find((one) => one.holder === holder);
    if (lease === undefined) {
      const others = [...new Set(there.map((one) => one.holder))];
      throw new LabError("E_STATE_NOT_FOUND", `${visible(holder)} has nothing reserved of ${visible(name)}`, {
        hint:
          others.length === 0
            ? "nobody has; `labctl leases` shows what is reserved"
            : `it is ${others.join(", ")} who has: name that with --holder`,
      });
    }
    if (lease.process !== undefined && flags.force !== true) {
      throw new LabError(
        "E_LEASE_HELD",
        `${visible(holder)} is at work with ${lease.resource} (process ${lease.process.pid} on ${visible(lease.process.host)})`,
        { address: lease.resource, hint: "cancel that run, or take it away with --force: the run then stops" },
      );
    }
    // What a run has of the lab's and of a group's limits goes with the machine.
    const shares = (await table.list()).filter((one) => one.holder === holder && isShare(one.resource));
    const released: Lease[] = [];
    for (const one of [lease, ...shares]) if (await table.release(one)) released.push(one);
    if (term.options.json) term.json({ released });
    else for (const one of released) term.out(`${visible(one.resource)} is free of ${visible(one.holder)}.`);
    return 0;
  });
}

async function listLeases(context: Context, name: string | undefined): Promise<number> {
  const { term, services } = context;
  const { settings } = await stateOfLab(context, selectionOf(context));
  const table = await services.openLeases(settings);
  const [all, queue] = [await table.list(), await table.waiting()];
  const leases = name === undefined ? all : all.filter((lease) => isNamed(lease.resource, name));
  const waiting = name === undefined ? queue : queue.filter((one) => one.wants.some((want) => isNamed(want, name)));
  if (term.options.json) {
    term.json({ leases, waiting });
    return 0;
  }
  if (leases.length === 0 && waiting.length === 0) {
    term.out(name === undefined ? "Nothing is reserved." : `Nothing is reserved of ${visible(name)}.`);
    return 0;
  }
  const { amountsText, endText, isEndless } = await scheduling();
  const until = (one: Lease): string =>
    one.process !== undefined || isEndless(one) ? visible(endText(one, term.io.now().getTime())) : minute(one.until);
  const style = styleOf(term);
  const paint = paintFor(style);
  if (leases.length > 0) {
    term.out(
      renderTable(
        leases,
        [
          { title: "resource", cell: (one) => paint.bold(visible(one.resource)) },
          { title: "holder", cell: (one) => visible(one.holder), flexible: true },
          {
            title: "has",
            cell: (one) => (one.amounts === undefined ? "all of it" : amountsText(one.amounts)),
            flexible: true,
          },
          { title: "until", cell: until },
          { title: "for", cell: (one) => visible(one.reason), flexible: true },
        ],
        style,
      ),
    );
  }
  if (waiting.length > 0) {
    term.out(`${leases.length > 0 ? "\n" : ""}${paint.bold("Waiting")} (in the order of their turn):`);
    term.out(renderTable(waiting, waitingColumns(), style));
  }
  return 0;
}

function waitingColumns(): Parameters<typeof renderTable<Waiter>>[1] {
  return [
    { title: "holder", cell: (one) => visible(one.holder), flexible: true },
    { title: "priority", cell: (one) => String(one.priority), align: "right" },
    { title: "since", cell: (one) => minute(one.since) },
    { title: "wants", cell: (one) => one.wants.map(visible).join(", "), flexible: true },
  ];
}

/** `host.kvm-1`, or `kvm-1`. */
function isNamed(resource: Address, text: string): boolean {
  return resource === canonicalAddress(text) || resource.slice(resource.indexOf(".") + 1) === text;
}

function isShare(resource: Address): boolean {
  return resource === "lab" || resource.startsWith("group.");
}

/** As it can be pasted into a shell. */
function quoted(address: Address): string {
  return /^[\w.-]+$/.test(address) ? address : `'${address.replaceAll("'", String.raw`'\''`)}'`;
}

/** @throws LabError E_USAGE */
function sizeOption(name: string, text: string): number {
  const value = parseSize(text);
  if (value === undefined || value <= 0) {
    throw new LabError("E_USAGE", `${name} takes a size, not ${JSON.stringify(text)}`, {
      hint: "for example 512MiB or 16GiB",
    });
  }
  return value;
}
