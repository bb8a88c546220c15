import {
  defineKind,
  type Infer,
  LabError,
  type ObjectSchema,
  type OperationContext,
  parentAddress,
  type ReconcileItem,
  sh,
  ShellText,
  shJoin,
} from "../../src/index.ts";
import { failure, lastLines, machineOf, PATH_PATTERN, readByMachine, readByProbe } from "./common.ts";
import { sha256 } from "./entries.ts";
import { USER_PATTERN } from "./user-model.ts";
import { afterAll } from "./order.ts";

const schema = {
  type: "object",
  properties: {
    name: {
      type: "string",
      description: "Name of the command in the lab.",
      "x-labctl": { identity: true },
    },
    run: {
      type: "string",
      minLength: 1,
      description: "Text for the host's /bin/sh. References are not allowed in it: values come through `env`.",
      examples: ["make -C /srv/tool install"],
      "x-labctl": { shell: true },
    },
    script: {
      type: "string",
      minLength: 1,
      description: "A local script that is sent and run, through the interpreter that its first line names.",
      examples: ["./warm.sh"],
      "x-labctl": { path: true },
    },
    unless: {
      type: "string",
      minLength: 1,
      description:
        "Shell text that exits 0 where nothing needs to be done. It is run at every plan: it must change nothing.",
      examples: ["test -d /srv/cache/warm"],
      "x-labctl": { shell: true },
    },
    creates: {
      type: "string",
      pattern: PATH_PATTERN,
      description: "A path on the host; where it exists nothing needs to be done.",
      examples: ["/usr/local/bin/perf"],
    },
    env: {
      type: "object",
      propertyNames: { type: "string", pattern: "^[A-Za-z_][A-Za-z0-9_]*$" },
      additionalProperties: { type: ["string", "number", "boolean"] },
      description:
        "Environment for `run`, `script`, `unless` and `undo`. It travels over stdin and shows on no command line.",
      examples: [{ SIZE: "10" }],
    },
    cwd: {
      type: "string",
      pattern: PATH_PATTERN,
      description: "Directory to run in. Default: the login's home.",
      examples: ["/srv/build"],
    },
    user: {
      type: "string",
      pattern: USER_PATTERN,
      description: "User to run as. Default: root where labctl has root, else the login.",
      examples: ["build"],
    },
    undo: {
      type: "string",
      minLength: 1,
      description: "Shell text that is run when the resource is deleted. Default: deleting does nothing.",
      examples: ["rm -rf /srv/cache/warm"],
      "x-labctl": { shell: true },
    },
    digest: {
      type: "string",
      description: "SHA-256 of the script.",
      "x-labctl": { derived: true },
    },
  },
  required: ["name"],
  oneOf: [{ required: ["run"] }, { required: ["script"] }],
  anyOf: [{ required: ["unless"] }, { required: ["creates"] }],
  additionalProperties: false,
} as const satisfies ObjectSchema;

const attributes = {
  type: "object",
  properties: {
    satisfied: {
      type: "boolean",
      const: true,
      description: "That `unless` or `creates` holds; otherwise it reads as absent.",
    },
  },
  required: ["satisfied"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

type Desired = Infer<typeof schema>;
type Observed = Infer<typeof attributes>;
type CommandItem = ReconcileItem<Desired, Observed>;

/** Seconds that an `unless` may take: it runs at every plan. */
const UNLESS_SECONDS = 60;
/** The resource's own `timeout`, or the run's end, comes first; this is the last bound. Milliseconds. */
const RUN_MS = 24 * 3_600_000;
const SCRIPT_LIMIT = 8 * 1024 * 1024;

function exports(env: Desired["env"]): ShellText {
  const lines = Object.entries(env ?? {}).map(
    ([name, value]) => sh`export ${new ShellText(checkedName(name))}=${String(value)}`,
  );
  return shJoin(lines);
}

function checkedName(name: string): string {
  if (/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) return name;
  throw new LabError("E_SPEC_VALUE", `${JSON.stringify(name)} is no name for an environment variable`, {
    hint: "use letters, digits and underscores",
  });
}

/** A shell text of the user's as one command, as the user that is wanted. What it says is not secret; its environment is exported. */
function asUser(desired: Desired, text: string): ShellText {
  return desired.user === undefined ? sh`sh -c ${text}` : sh`su -s /bin/sh ${desired.user} -c ${text}`;
}

function changeDirectory(desired: Desired): ShellText {
  return desired.cwd === undefined ? sh`:` : sh`cd -- ${desired.cwd}`;
}

/** Prints yes or no: whether nothing needs to be done. */
export function satisfiedScript(desired: Desired): ShellText {
  const tests = [
    ...(desired.creates === undefined ? [] : [sh`{ [ -e ${desired.creates} ] || [ -L ${desired.creates} ]; }`]),
    ...(desired.unless === undefined
      ? []
      : [
          sh`{ ${changeDirectory(desired)} && labctl_limit ${asUser(desired, desired.unless)}; } </dev/null >/dev/null 2>&1`,
        ]),
  ];
  const either = tests.length === 0 ? sh`false` : shJoin(tests, " || ");
  return sh`if (
${exports(desired.env)}
${either}
); then echo yes; else echo no; fi`;
}

const LIMIT = new ShellText(
  `labctl_limit() { if command -v timeout >/dev/null 2>&1; then timeout ${UNLESS_SECONDS} "$@"; else "$@"; fi; }`,
);

const probe = {
  script: (group: readonly { readonly desired: Desired }[]): ShellText =>
    shJoin([LIMIT, ...group.map((item) => satisfiedScript(item.desired))]),
  parse: (lines: readonly string[], group: readonly unknown[]) =>
    group.map((_, i) => {
      if (lines[i] === "yes") return { is: "present" as const, value: { satisfied: true as const } };
      return lines[i] === "no" ? { is: "absent" as const } : undefined;
    }),
};

/** The whole that is run; the script itself stands in a folder that only its user can enter, for as long as it runs. */
function runText(desired: Desired, script: Buffer | undefined, id: string): ShellText {
  if (script === undefined)
    return sh`{ ${changeDirectory(desired)} || exit 126; exec ${asUser(desired, desired.run ?? "")}; }`;
  return sh`{
umask 077
if [ "$(id -u)" = 0 ]; then labctl_home=/var/lib/labctl; else labctl_home=\${XDG_STATE_HOME:-$HOME/.local/state}/labctl; fi
labctl_dir=$labctl_home/run-${id}
rm -rf -- "$labctl_dir"
mkdir -p -- "$labctl_dir" || exit 126
trap 'rm -rf -- "$labctl_dir"; rmdir -- "$labctl_home" 2>/dev/null' EXIT
trap 'exit 143' TERM INT HUP
printf %s ${script.toString("base64")} | base64 -d >"$labctl_dir/script" && chmod 0700 "$labctl_dir/script" || exit 126
${desired.user === undefined ? sh`:` : sh`chmod 0711 "$labctl_home" && chown -R -- ${desired.user} "$labctl_dir" || exit 126`}
${changeDirectory(desired)} || exit 126
umask 022
${desired.user === undefined ? sh`"$labctl_dir/script"` : sh`su -s /bin/sh ${desired.user} -c "$labctl_dir/script"`}
labctl_code=$?
exit $labctl_code
}`;
}

async function scriptOf(ctx: OperationContext, item: CommandItem): Promise<Buffer | undefined> {
  const { script, digest } = item.desired;
  if (script === undefined) return undefined;
  const bytes = await ctx.local.read(script);
  if (digest !== undefined && sha256(bytes) !== digest) {
    throw new LabError("E_SOURCE_FILE", `${script} changed after the plan was made`, {
      address: item.address,
      hint: "plan again",
    });
  }
  if (bytes.length > SCRIPT_LIMIT) {
    throw new LabError("E_SOURCE_FILE", `${script} is larger than 8 MiB`, {
      address: item.address,
      hint: "send large data under `files:`, and let the script use it",
    });
  }
  return bytes;
}

async function perform(ctx: OperationContext, item: CommandItem, text: ShellText, what: string): Promise<void> {
  const env = Object.fromEntries(Object.entries(item.desired.env ?? {}).map(([name, value]) => [name, String(value)]));
  const result = await machineOf(ctx, item).exec(text, {
    env,
    signal: ctx.signal,
    timeout: RUN_MS,
    onStdout: (chunk) => ctx.output("stdout", chunk),
    onStderr: (chunk) => ctx.output("stderr", chunk),
  });
  if (result.code === 0) return;
  const said = lastLines(result.stderr.length > 0 ? result.stderr : result.stdout);
  const how = result.signal === undefined ? `exit code ${result.code ?? "unknown"}` : `killed by ${result.signal}`;
  const full = /No space left on device/i.test(said) ? failure("", said).code : "E_COMMAND_FAILED";
  throw new LabError(full, `${what} failed (${how})${said === "" ? "" : `: ${said}`}`, {
    address: item.address,
    hint:
      result.code === 126
        ? "see whether `cwd` and `user` are there, and the script's first line"
        : "its whole output is in the run's log",
  });
}

export const command = defineKind({
  kind: "command",
  title: "A command on a host",
  description: [
    "The last resort: something to run, and how to see that it needn't. It is run where neither `unless` exits 0 nor `creates`",
    "exists, and one of them must hold afterwards. A changed script alone does not run it again: say in `unless` what is",
    "wanted. Deleting does nothing unless `undo` says what.",
  ].join("\n"),
  section: { name: "commands", within: "host", shape: "map", key: "name" },
  schema,
  attributes,
  ownership: "shared",
  async prepare(ctx, item) {
    const { script } = item.desired;
    if (script === undefined || item.unknown.has("script")) return {};
    return { digest: (await ctx.local.digest(script)).sha256 };
  },
  limits: (_desired, address) => [{ name: `${parentAddress(address) ?? "host"}/commands`, permits: 4 }],
  after: (_desired, siblings) => afterAll(siblings),
  readMany: (ctx, items) => readByMachine(ctx, items, probe),
  diff: () => [],
  async reconcile(ctx, item) {
    const machine = machineOf(ctx, item);
    const [before] = await readByProbe(ctx, machine, [item], probe);
    if (before?.is === "present") return before.value;
    if (before?.is === "unreachable") throw before.why;
    const text = runText(item.desired, await scriptOf(ctx, item), sha256(item.instance_id).slice(0, 20));
    await perform(ctx, item, text, `the command ${item.desired.name}`);
    const [after] = await readByProbe(ctx, machine, [item], probe);
    if (after?.is === "present") return after.value;
    const what = item.desired.unless === undefined ? `${item.desired.creates} does not exist` : "`unless` still fails";
    throw new LabError("E_MISMATCH", `the command ${item.desired.name} ended well, but ${what}`, {
      address: item.address,
      hint: "correct `unless:` or `creates:`; otherwise it would run at every apply",
    });
  },
  async delete(ctx, item) {
    const { undo, name } = item.desired;
    // What held before labctl ran anything is not labctl's to undo.
    if (undo === undefined || item.prior?.original !== undefined || item.observed === undefined) return;
    const text = sh`{ ${changeDirectory(item.desired)} || exit 126; exec ${asUser(item.desired, undo)}; }`;
    await perform(ctx, item, text, `undoing the command ${name}`);
  },
  manualCleanup: (item) =>
    item.desired.undo === undefined
      ? `undo by hand what the command ${item.desired.name} did`
      : `on the host, run: ${item.desired.undo}`,
});
