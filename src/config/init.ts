export interface InitOptions {
  /** Name of the lab: `[a-z0-9][a-z0-9-]*`. */
  readonly name: string;
  /** Where the schema of lab.yaml stands, for editors: a path or a URL. Absent: the one inside the installed package. */
  readonly schema?: string;
  /** The folder that the lab makes, absolute: one that is not there yet. */
  readonly folder: string;
}

/** The files of a small working lab: this machine only, no root, and nothing outside one folder. */
export function initFiles(options: InitOptions): readonly { readonly path: string; readonly content: string }[] {
  const schema = options.schema ?? "./node_modules/labctl/schemas/lab.schema.json";
  return [
    { path: "lab.yaml", content: labYaml(options.name, options.folder, schema) },
    { path: ".gitignore", content: ".labctl/\n" },
  ];
}

function labYaml(name: string, folder: string, schema: string): string {
  return `# yaml-language-server: $schema=${schema}

# What this lab is. See what would be done with \`labctl plan\`, do it with \`labctl apply\`,
# change something below (or in ${folder} behind labctl's back) and plan again.
labctl: 1
name: ${name}

variables:
  greeting: { description: what the file says, default: hello }

hosts:
  here:
    # The machine that labctl runs on. For another one, give an address instead:
    #   address: 10.0.0.11
    #   ssh: { user: lab, key: ~/.ssh/id_ed25519 }
    connection: local

    directories:
      ${folder}: { mode: "0755" }

    files:
      ${folder}/hello.txt:
        mode: "0644"
        content: |
          \${var.greeting} from ${name}

    commands:
      # The last resort: what to run, and how to see that it needn't.
      count-lines:
        run: wc -l < "$FILE" > "$FILE.lines"
        creates: ${folder}/hello.txt.lines
        undo: rm -f "$FILE.lines"
        env: { FILE: ${folder}/hello.txt }

# Shown after an apply, and by \`labctl output\`.
outputs:
  kernel: "\${host.here.kernel}"
`;
}
