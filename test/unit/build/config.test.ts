import { describe, expect, test } from "vitest";
import { explainDropped } from "../../../providers/build/kconfig-explain.ts";
import { parseKconfig } from "../../../providers/build/kconfig.ts";
import {
  configSource,
  configValue,
  droppedError,
  mergeConfig,
  parseConfig,
  parseFragment,
  verifyConfig,
} from "../../../providers/build/kernel-config.ts";

describe("fragments and config maps", () => {
  test("values are written as a .config has them", () => {
    const value = (given: string | number | boolean) => configValue("CONFIG_X", given).value;
    expect([true, false, "y", "m", "n", 20, "20", "0x1F", "console=ttyS0", 'a"b\\', '"y"', ""].map(value)).toEqual([
      "y",
      "n",
      "y",
      "m",
      "n",
      "20",
      "20",
      "0x1F",
      '"console=ttyS0"',
      '"a\\"b\\\\"',
      '"y"',
      '""',
    ]);
    expect(() => configValue("KASAN=y", "y")).toThrow(expect.objectContaining({ code: "E_SPEC_VALUE" }));
    expect(() => configValue("A", "a\nCONFIG_B=y")).toThrow(expect.objectContaining({ code: "E_SPEC_VALUE" }));
    expect(() => configValue("A", 1.5)).toThrow(expect.objectContaining({ code: "E_SPEC_VALUE" }));
  });

  test("a fragment is read with its lines; all that Kconfig would pass over is named", () => {
    expect(parseFragment("f", 'CONFIG_A=y\n# a remark\n\n# CONFIG_B is not set\r\nCONFIG_C="x=y"\n').requests).toEqual([
      { symbol: "A", value: "y", line: 1 },
      { symbol: "B", value: "n", line: 4 },
      { symbol: "C", value: '"x=y"', line: 5 },
    ]);
    expect(() => parseFragment("lab.config", "CONFIG_A=y\nKASAN=y\nCONFIG_B = y\nCONFIG_C=yes\n")).toThrow(
      expect.objectContaining({
        code: "E_KCONFIG_SYNTAX",
        message: "lab.config: line 2: KASAN=y; line 3: CONFIG_B = y; line 4: CONFIG_C=yes",
      }),
    );
  });

  test("later sources win; conflicts name both places; what is only wished for takes nothing away", () => {
    const merged = mergeConfig([
      parseFragment("a.config", "CONFIG_A=y\nCONFIG_B=m\n"),
      configSource("config", { A: "n", C: "text" }),
      {
        origin: "instrumentation x",
        requests: [
          { symbol: "C", value: "n", optional: true },
          { symbol: "D", value: "y", optional: true },
        ],
      },
    ]);
    expect(merged.fragment).toBe('CONFIG_B=m\n# CONFIG_A is not set\nCONFIG_C="text"\nCONFIG_D=y\n');
    expect(merged.overridden).toEqual([
      {
        symbol: "A",
        lost: { symbol: "A", value: "y", origin: "a.config:1" },
        won: { symbol: "A", value: "n", origin: "config" },
      },
    ]);
    expect(merged.table).toBe('B\tm\trequired\nA\tn\trequired\nC\t"text"\trequired\nD\ty\toptional\n');
  });

  test("what did not survive is told with who asked for it", () => {
    const merged = mergeConfig([
      parseFragment(
        "a.config",
        'CONFIG_GONE=y\nCONFIG_MODULE=m\nCONFIG_BECAME=m\n# CONFIG_FORCED is not set\nCONFIG_TEXT="a"\nCONFIG_HEX=0x1f\nCONFIG_EMPTY=""\n',
      ),
      { origin: "wish", requests: [{ symbol: "WISH", value: "y", optional: true }] },
    ]);
    const final = parseConfig(
      'CONFIG_MODULE=m\nCONFIG_BECAME=y\nCONFIG_FORCED=y\nCONFIG_TEXT="b"\nCONFIG_HEX=0x1F\n# CONFIG_GONE is not set\n',
    );
    const dropped = verifyConfig(merged, final);
    expect(dropped).toEqual([
      { symbol: "GONE", wanted: "y", actual: "n", origin: "a.config:1" },
      { symbol: "FORCED", wanted: "n", actual: "y", origin: "a.config:4" },
      { symbol: "TEXT", wanted: '"a"', actual: '"b"', origin: "a.config:5" },
    ]);
    const error = droppedError(dropped, new Map([["GONE", { reason: "GONE depends on X", hint: "ask for X: y" }]]));
    expect(error.code).toBe("E_KCONFIG_DROPPED");
    expect(error.message.split("\n")[0]).toBe("GONE=y (asked for by a.config:1) is not set: GONE depends on X");
    expect(error.hint).toBe("ask for X: y");
  });
});

describe("why a symbol is dropped", () => {
  const index = parseKconfig(
    new Map([
      [
        "Kconfig",
        `mainmenu "Test"
config CC_CAN
	def_bool $(cc-option,-fx (with parens))

source "arch/$(SRCARCH)/Kconfig"

config NET
	bool "Networking"
	help
	  Text that looks like a statement:
	  config FAKE
	    bool "no"

	  if NET

menu "Devices"
	depends on NET

config CARD
	tristate "A card"
	depends on (PCI || \\
		    USB) && !OFF
	select HELPER if PCI

endmenu

config OFF
	bool "Off" if EXPERT
	default y

config EXPERT
	bool "Expert"

config HELPER
	tristate

config USB
	bool "USB"

choice
	prompt "Allocator"
config BIG
	bool "Big"
config TINY
	bool "Tiny"
endchoice

config CHECK
	bool "Checker"
	depends on BIG && HAVE_CHECK

if MODULES
config MODONLY
	tristate "Needs modules"
endif

config MODULES
	bool "Modules"

config SIZE
	int "Size"
	range 3 300 if !EXPERT

config WINDOW
	string "Window"
	depends on SIZE > 10
`,
      ],
      [
        "arch/x86/Kconfig",
        'config HAVE_CHECK\n\tbool\nconfig X86\n\tdef_bool y\n\tselect HAVE_CHECK if X86_64\nconfig X86_64\n\tbool "64 bit"\nconfig PCI\n\tbool "PCI"\n',
      ],
    ]),
    "x86",
  );
  const why = (symbol: string, config: Record<string, string>, wanted = "y", actual = "n") =>
    explainDropped([{ symbol, wanted, actual, origin: "config" }], new Map(Object.entries(config)), index).get(symbol);

  test("the files are read as Kconfig reads them", () => {
    expect([...index.definitions.keys()].sort()).toEqual([
      "BIG",
      "CARD",
      "CC_CAN",
      "CHECK",
      "EXPERT",
      "HAVE_CHECK",
      "HELPER",
      "MODONLY",
      "MODULES",
      "NET",
      "OFF",
      "PCI",
      "SIZE",
      "TINY",
      "USB",
      "WINDOW",
      "X86",
      "X86_64",
    ]);
    expect(index.choices).toEqual([["BIG", "TINY"]]);
    expect(index.selectedBy.get("HELPER")?.map(({ by }) => by)).toEqual(["CARD"]);
  });

  test.each<[string, string, Record<string, string>, string, string, string | undefined]>([
    ["a menu around it", "CARD", { PCI: "y" }, "y", "CARD depends on NET (NET is not set)", "ask for NET: y"],
    [
      "the cheapest of several ways",
      "CARD",
      { NET: "y", OFF: "y" },
      "y",
      "CARD depends on PCI || USB (PCI is not set) and !OFF (OFF is y)",
      "ask for PCI: y, OFF: n",
    ],
    ["another member of the choice", "BIG", { TINY: "y" }, "y", "TINY is chosen in its place", "ask for TINY: n"],
    [
      "a choice further down, and what an architecture lacks",
      "CHECK",
      { TINY: "y", X86: "y" },
      "y",
      "CHECK depends on BIG (BIG is not set, TINY is chosen in its place) and HAVE_CHECK (HAVE_CHECK is not set: X86 selects it only if X86_64)",
      "ask for BIG: y, TINY: n",
    ],
    ["an if around it", "MODONLY", {}, "m", "MODONLY depends on MODULES (MODULES is not set)", "ask for MODULES: y"],
    ["a prompt with a condition", "OFF", {}, "y", "OFF depends on EXPERT (EXPERT is not set)", "ask for EXPERT: y"],
    [
      "nobody can set it",
      "HELPER",
      {},
      "y",
      "nobody can set it: it follows from others, selected by CARD",
      "ask for CARD: y",
    ],
    ["somebody selects it", "HELPER", { CARD: "y", PCI: "y" }, "n", "selected by CARD", "ask for CARD: n"],
    ["no such symbol", "CARDS", {}, "y", "this kernel has no such symbol for this architecture", "near CARDS: CARD"],
    ["a bool as a module", "USB", {}, "m", "it is no module: it can be y or n", "ask for USB: y"],
    ["a comparison", "WINDOW", { SIZE: "5" }, '"x"', "WINDOW depends on SIZE > 10 (SIZE is 5)", undefined],
  ])("%s", (_name, symbol, config, wanted, reason, hint) => {
    expect(why(symbol, config, wanted)).toEqual(hint === undefined ? { reason } : { reason, hint });
  });

  test("a range", () => {
    expect(why("SIZE", { SIZE: "300" }, "1000", "300")).toEqual({ reason: "its range is 3 to 300" });
  });
});
