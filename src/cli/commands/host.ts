import type { Command } from "commander";
import { LabError } from "../../diagnostics/index.ts";
import type { LabSession } from "../../engine/port.ts";
import { type Address, type Hold, LAB_SCOPE, type Plain } from "../../model/index.ts";
import { type Context, durationOption, selectionOf, whoAmI } from "../context.ts";
import {
  addressText,
  fact,
  findHost,
  hostJson,
  hostsOf,
  labelText,
  maintenanceText,
  plainText,
  readable,
  sizeText,
  textOf,
} from "../hosts.ts";
import { summaryOf, withLab } from "../lab.ts";
import { addExecOptions, type ExecFlags, execOn } from "../exec.ts";
import type { Host } from "../program.ts";
import { paintFor } from "../renderers/paint.ts";
import { holdText, paintStatus, renderMap, renderPairs } from "../renderers/rows.ts";
import { renderTable } from "../renderers/table.ts";
import { visible } from "../renderers/text.ts";
import { isMap as isPlainMap } from "../renderers/value.ts";
import { lockRequest } from "../state-access.ts";
import { styleOf } from "./plan.ts";
import { planOptions } from "./planning.ts";

export function registerHost(program: Command, host: Host): void {
  const group = program
    .command("host")
    .summary("the machines: list, facts, running commands, maintenance")
    .description("Looks at the lab's machines, runs commands on them, and takes them out of service for a while.");

  const list = group.command("list").summary("all machines");
  list.addHelpText("after", "\nExamples:\n  labctl host list\n  labctl host list --json | jq '.[].name'");
  list.action(async () => {
    await host.invoke((context) => listHosts(context), list);
  });

  const show = group
    .command("show")
    .argument("<host>", "its name or address")
    .summary("one machine: spec, facts, maintenance");
  show.addHelpText("after", "\nExamples:\n  labctl host show builder-1");
  show.action(async (name: string) => {
    await host.invoke((context) => showHost(context, name), show);
  });

  const facts = group
    .command("facts")
    .argument("[host]", "its name or address; all machines without")
    .summary("read facts from the machine now");
  facts.addHelpText("after", "\nExamples:\n  labctl host facts builder-1\n  labctl host facts --json");
  facts.action(async (name: string | undefined) => {
    await host.invoke((context) => showFacts(context, name), facts);
  });

  const exec = group.command("exec");
  addExecOptions(
    exec
      .argument("<host>", "its name or address")
      .argument("<command...>", "the command and its arguments, after --")
      .summary("run a command on a machine, over the lab's connection")
      .description(
        "Runs a command on a machine: each word arrives as it is, no shell looks at it. Exits with the command's own code, or 128 and the signal's number.",
      ),
  ).addHelpText(
    "after",
    "\nExamples:\n  labctl host exec builder-1 -- uname -a\n  labctl host exec builder-1 --root -- dmesg --level err\n  labctl host exec builder-1 -- sh -c 'cd /srv && ls | wc -l'",
  );
  exec.action(async (name: string, words: string[], flags: ExecFlags) => {
    await host.invoke(
      (context) =>
        inLab(context, "host exec", true, async (session) => {
          const { resource } = findHost(await hostsOf(context, session), name);
          return execOn(context, session, resource.address, words, flags);
        }),
      exec,
    );
  });

  const maintenance = group
    .command("maintenance")
    .argument("<host>", "its name or address")
    .argument("<on|off>")
    .summary("take a machine out of service, or back")
    .description(
      "Takes a machine out of service: nothing new is placed on it, what runs may finish. An apply never ends it.",
    )
    .option("--reason <text>", "why (required for `on`)")
    .option("--until <time>", "until when: 2h, 3d, or a time such as 2026-12-01T08:00Z")
    .addHelpText(
      "after",
      "\nExamples:\n  labctl host maintenance builder-1 on --reason 'new disk' --until 4h\n  labctl host maintenance builder-1 off",
    );
  maintenance.action(async (name: string, what: string, flags: { reason?: string; until?: string }) => {
    await host.invoke((context) => maintain(context, name, what, flags), maintenance);
  });
}

async function inLab(
  context: Context,
  command: string,
  record: boolean,
  body: (session: LabSession) => Promise<number>,
): Promise<number> {
  const started = performance.now();
  return withLab(
    context,
    { command, selection: selectionOf(context), record, stream: false },
    async ({ session, view }) => {
      await view.pause();
      return summaryOf(command, await body(session), started);
    },
  );
}

async function listHosts(context: Context): Promise<number> {
  const { term } = context;
  return inLab(context, "host list", false, async (session) => {
    const known = await hostsOf(context, session);
    if (term.options.json) {
      term.json(known.map(hostJson));
      return 0;
    }
    if (known.length === 0) {
      term.out("The spec has no hosts.");
      return 0;
    }
    const style = styleOf(term);
    const paint = paintFor(style);
    term.out(
      renderTable(
        known,
        [
          { title: "host", cell: ({ resource }) => paint.bold(visible(resource.address)) },
          { title: "address", cell: (one) => visible(addressText(one)) },
          { title: "arch", cell: (one) => visible(textOf(fact(one, "arch"))) },
          { title: "cores", cell: (one) => visible(textOf(fact(one, "cores"))), align: "right" },
          { title: "memory", cell: (one) => sizeText(fact(one, "memory")), align: "right" },
          { title: "kernel", cell: (one) => visible(textOf(fact(one, "kernel"))), flexible: true },
          { title: "group", cell: ({ resource }) => plainText(resource.desired["group"]) },
          { title: "labels", cell: (one) => labelText(one), flexible: true },
          {
            title: "status",
            cell: ({ row }) => (row === undefined ? paint.dim("not applied") : paintStatus(row.status, paint)),
          },
          { title: "maintenance", cell: (one) => paint.yellow(maintenanceText(one)), flexible: true },
        ],
        style,
      ),
    );
    return 0;
  });
}

async function showHost(context: Context, name: string): Promise<number> {
  const { term } = context;
  return inLab(context, "host show", false, async (session) => {
    const one = findHost(await hostsOf(context, session), name);
    if (term.options.json) {
      term.json(hostJson(one));
      return 0;
    }
    const paint = paintFor(styleOf(term));
    const contains = session.lab.resources.filter((child) => child.parent === one.resource.address).length;
    const maintenance = maintenanceText(one);
    term.out(paint.bold(visible(one.resource.address)));
    term.out(
      renderPairs([
        ["  address", visible(addressText(one))],
        ["  declared at", `${visible(one.resource.at.file)}:${one.resource.at.line}`],
        ["  status", one.row === undefined ? "not applied" : paintStatus(one.row.status, paint)],
        ["  contains", `${contains} resources`],
        ...(labelText(one) === "" ? [] : [["  labels", labelText(one)] as const]),
        ...(maintenance === "" ? [] : [["  maintenance", paint.yellow(maintenance)] as const]),
      ]),
    );
    const seen = one.row?.observed;
    if (isPlainMap(seen) && Object.keys(seen).length > 0) {
      term.out(`  ${paint.bold("last seen")} ${paint.dim(visible(one.row?.updated_at ?? ""))}`);
      term.out(renderMap(readable(seen), 4).join("\n"));
    }
    return 0;
  });
}

async function showFacts(context: Context, name: string | undefined): Promise<number> {
  const { term } = context;
  return inLab(context, "host facts", false, async (session) => {
    const all = await hostsOf(context, session);
    const chosen = name === undefined ? all : [findHost(all, name)];
    const inside = session.lab.resources.filter((one) => one.parent !== undefined).map((one) => one.address);
    const options = planOptions(context, {}, "normal");
    const plan = await session.plan({
      ...options,
      targets: chosen.map(({ resource }) => resource.address),
      excludes: inside,
    });
    const facts: Record<Address, Plain> = {};
    const silent: string[] = [];
    for (const { resource } of chosen) {
      const action = plan.actions.find((one) => one.address === resource.address);
      if (action?.before !== undefined) facts[resource.address] = action.before;
      else silent.push(`${resource.address}: ${action?.reason.text ?? "nothing was read"}`);
    }
    if (term.options.json) term.json(facts);
    else {
      const paint = paintFor(styleOf(term));
      for (const [address, value] of Object.entries(facts)) {
        term.out(paint.bold(visible(address)));
        if (isPlainMap(value)) term.out(renderMap(readable(value), 2).join("\n"));
      }
    }
    if (silent.length === 0) return 0;
    throw new LabError("E_BLOCKED", silent.join("; "), {
      hint: "bring the machine back, or look at `labctl host show` for what was last seen",
    });
  });
}

async function maintain(
  context: Context,
  name: string,
  what: string,
  flags: { readonly reason?: string; readonly until?: string },
): Promise<number> {
  const { term } = context;
  if (what !== "on" && what !== "off")
    throw new LabError("E_USAGE", `maintenance is on or off, not ${JSON.stringify(what)}`);
  if (what === "on" && (flags.reason ?? "").trim() === "") {
    throw new LabError("E_USAGE", "say why with --reason: others will ask", {
      hint: "for example --reason 'new disk' --until 4h",
    });
  }
  const until = flags.until === undefined ? undefined : timeOption(flags.until, term.io.now());
  return inLab(context, "host maintenance", true, async (session) => {
    const { resource, hold: current } = findHost(await hostsOf(context, session), name);
    if (what === "on" && current?.kind === "decommissioned") {
      throw new LabError("E_STATE_CONFLICT", `${resource.address} is out of the lab: ${holdText(current)}`, {
        address: resource.address,
        hint: "`labctl host maintenance HOST off` takes it back; then it can be in maintenance",
      });
    }
    const hold: Hold | null =
      what === "off"
        ? null
        : {
            who: whoAmI(term.io.env),
            why: flags.reason ?? "",
            since: term.io.now().toISOString(),
            ...(until !== undefined && { until }),
          };
    const state = await session.store.open(
      LAB_SCOPE,
      lockRequest(context, `labctl host maintenance ${resource.address} ${what}`),
    );
    try {
      await state.setHold(resource.address, hold);
    } finally {
      await state.close();
    }
    if (term.options.json) term.json({ address: resource.address, hold });
    else if (hold === null) term.out(`${visible(resource.address)} is back in service.`);
    else term.out(`${visible(resource.address)} is in maintenance: ${holdText(hold)}`);
    return 0;
  });
}

/** ISO 8601, or a duration from now. @throws LabError E_USAGE */
function timeOption(text: string, now: Date): string {
  const at = /^\d{4}-\d{2}-\d{2}/.test(text) ? Date.parse(text) : now.getTime() + durationOption("--until", text);
  if (Number.isNaN(at) || at <= now.getTime()) {
    throw new LabError("E_USAGE", `--until takes a time to come, not ${JSON.stringify(text)}`, {
      hint: "for example 4h, or 2026-12-01T08:00Z",
    });
  }
  return new Date(at).toISOString();
}
