/**
 * Every code that a user can meet, with the exit code it leads to. docs/errors.md has a section for each; a test holds
 * the two equal. Codes are stable: they are never renamed or given another meaning.
 *
 * Exit codes: 1 internal; 3 invalid spec or arguments; 4 state; 5 cannot connect or authenticate;
 * 6 begun and some of it failed; 7 not ready; 8 nothing satisfies, or forbidden; 130 cancelled.
 */
export const CODES = {
  // Internal
  E_INTERNAL: { exit: 1, title: "a defect in labctl" },

  // Spec: reading
  E_SPEC_NOT_FOUND: { exit: 3, title: "the spec file is not there" },
  E_SPEC_UNREADABLE: { exit: 3, title: "the spec file cannot be read" },
  E_SPEC_ENCODING: { exit: 3, title: "the spec file is not UTF-8 text" },
  E_SPEC_TOO_LARGE: { exit: 3, title: "the spec is larger than labctl reads" },
  E_SPEC_EMPTY: { exit: 3, title: "the spec file is empty" },
  E_SPEC_MORE: { exit: 3, title: "more problems than are listed" },
  E_YAML_SYNTAX: { exit: 3, title: "not valid YAML" },
  E_YAML_DUPLICATE_KEY: { exit: 3, title: "a key stands twice" },
  E_YAML_ALIAS: { exit: 3, title: "an alias without an anchor, or too many aliases" },
  E_INCLUDE_NOT_FOUND: { exit: 3, title: "an included file is not there" },
  E_INCLUDE_LOOP: { exit: 3, title: "files include each other" },

  // Spec: meaning
  E_SPEC_TYPE: { exit: 3, title: "a value of the wrong type" },
  E_SPEC_VALUE: { exit: 3, title: "a value that is not allowed" },
  E_SPEC_UNKNOWN_KEY: { exit: 3, title: "a key that is not known here" },
  E_SPEC_MISSING_KEY: { exit: 3, title: "a required key is missing" },
  E_SPEC_UNSUPPORTED: { exit: 3, title: "a section that this version does not serve yet" },
  E_SPEC_MODE_UNQUOTED: { exit: 3, title: "an unquoted file mode" },
  E_SPEC_NAME: { exit: 3, title: "a name that is not allowed" },
  E_SPEC_DUPLICATE: { exit: 3, title: "two declarations of one resource" },
  E_REF_SYNTAX: { exit: 3, title: "a reference that cannot be read" },
  E_REF_UNKNOWN: { exit: 3, title: "a reference to something that is not there" },
  E_REF_FORBIDDEN: { exit: 3, title: "a reference where none is allowed" },
  E_CYCLE: { exit: 3, title: "resources depend on each other in a circle" },
  E_VAR_MISSING: { exit: 3, title: "a variable without a value" },
  E_VAR_UNKNOWN: { exit: 3, title: "a value for a variable that is not declared" },
  E_SECRET_UNAVAILABLE: { exit: 3, title: "a secret cannot be obtained" },
  E_SECRET_PERMISSIONS: { exit: 3, title: "a secret file that others can read" },
  E_SOURCE_FILE: { exit: 3, title: "a local file that the spec names cannot be read" },
  E_IMPORT: { exit: 3, title: "an import of something that is not there, or is another thing" },
  E_MOVED: { exit: 3, title: "a rename that cannot be carried out" },

  // Arguments
  E_USAGE: { exit: 3, title: "wrong arguments" },
  E_ADDRESS_UNKNOWN: { exit: 3, title: "no such address" },
  E_PLAN_FILE: { exit: 3, title: "a saved plan that cannot be used" },
  E_PLAN_STALE: { exit: 3, title: "a saved plan that the state has moved past" },
  E_NOT_INTERACTIVE: { exit: 3, title: "a question that nobody is there to answer" },

  // Providers
  E_PROVIDER_NOT_FOUND: { exit: 3, title: "a provider that is not installed" },
  E_PROVIDER_VERSION: { exit: 3, title: "a provider of another version" },
  E_PROVIDER_INTEGRITY: { exit: 3, title: "a provider that differs from the lock file" },
  E_PROVIDER_INVALID: { exit: 3, title: "a provider that breaks the contract" },
  E_EXPERIMENTAL: { exit: 3, title: "an experimental kind that was not asked for" },

  // State
  E_STATE_LOCKED: { exit: 4, title: "the state is locked" },
  E_STATE_LOCK_LOST: { exit: 4, title: "the lock was taken over" },
  E_STATE_DAMAGED: { exit: 4, title: "the state is damaged" },
  E_STATE_VERSION: { exit: 4, title: "the state is of another format" },
  E_STATE_LINEAGE: { exit: 4, title: "the state is another lab's" },
  E_STATE_WRITE: { exit: 4, title: "the state cannot be written" },
  E_STATE_READ: { exit: 4, title: "the state cannot be read" },
  E_STATE_CONFLICT: { exit: 4, title: "the state is not what this change expects" },
  E_STATE_NOT_FOUND: { exit: 4, title: "there is no such state, row or run" },
  E_LEASE_HELD: { exit: 8, title: "a lease is held by somebody else" },

  // Reaching machines
  E_CONNECT: { exit: 5, title: "a host cannot be reached" },
  E_AUTH: { exit: 5, title: "a host refuses to log in" },
  E_HOST_KEY_UNKNOWN: { exit: 5, title: "a host key that is not known" },
  E_HOST_KEY_CHANGED: { exit: 5, title: "a host key that changed" },
  E_SSH_KEY: { exit: 5, title: "an SSH key that cannot be used" },
  E_DISCONNECTED: { exit: 6, title: "a host went away" },
  E_SOCKET: { exit: 6, title: "a socket on a host cannot be opened" },
  E_SUDO: { exit: 6, title: "no root rights on a host" },
  E_REBOOT: { exit: 6, title: "a host did not come back" },

  // Selection
  E_TOOLCHAIN_MISSING: { exit: 8, title: "no build server has the compiler" },
  E_NEVER_FITS: { exit: 8, title: "no machine can take it" },
  E_BUSY: { exit: 8, title: "every machine that could take it is busy" },
  E_ACTIVE_WORKLOADS: { exit: 8, title: "something still runs there" },

  // Artifacts
  E_ARTIFACT_NOT_FOUND: { exit: 8, title: "no such build or artifact" },
  E_ARTIFACT_AMBIGUOUS: { exit: 3, title: "several builds fit" },
  E_ARTIFACT_CORRUPT: { exit: 6, title: "an artifact is damaged" },
  E_ARTIFACT_STORE: { exit: 6, title: "the artifact store cannot be used" },
  E_ARTIFACT_STORE_FULL: { exit: 6, title: "the artifact store is full" },

  // Builds
  E_SOURCE_UNRESOLVED: { exit: 3, title: "a source that does not resolve" },
  E_SOURCE_TARBALL: { exit: 3, title: "a local tarball that is damaged, or not the one announced" },
  E_SOURCE_FETCH: { exit: 5, title: "a source cannot be fetched" },
  E_SOURCE_CORRUPT: { exit: 6, title: "a source that is not what was announced" },
  E_INSTRUMENTATION_CONFLICT: { exit: 3, title: "instrumentation that cannot be together" },
  E_KCONFIG_DEFCONFIG: { exit: 3, title: "no such defconfig" },
  E_KCONFIG_SYNTAX: { exit: 3, title: "a configuration fragment that cannot be read" },
  E_KCONFIG_DROPPED: { exit: 6, title: "the kernel's configuration dropped a symbol" },
  E_BUILD_FAILED: { exit: 6, title: "a build failed" },
  E_BUILD_TOOL: { exit: 6, title: "a build server lacks a tool" },
  E_BUILD_TIMEOUT: { exit: 6, title: "a build took too long" },
  E_BUILD_DISK: { exit: 6, title: "a build server's disk is full" },
  E_BUILD_LOST: { exit: 6, title: "a build ended without a result" },
  E_BUILD_OUTPUT: { exit: 6, title: "a build did not make what it should" },

  // Doing
  E_COMMAND_FAILED: { exit: 6, title: "a command failed" },
  E_TIMEOUT: { exit: 6, title: "it took too long" },
  E_TRANSFER: { exit: 6, title: "a file transfer failed" },
  E_DISK_FULL: { exit: 6, title: "a disk is full" },
  E_MISMATCH: { exit: 6, title: "what is there is not what was asked for" },
  E_OUTSIDE_ENVELOPE: { exit: 6, title: "the world changed after the plan" },
  E_NOT_OWNED: { exit: 6, title: "it exists and is not labctl's" },
  E_PREVENT_DESTROY: { exit: 8, title: "its lifecycle forbids deleting it" },
  E_BLOCKED: { exit: 5, title: "it cannot be read, so it was left alone" },
  E_DEPENDENCY_FAILED: { exit: 6, title: "something it needs failed" },
  E_PACKAGE: { exit: 6, title: "a package cannot be installed" },

  // Virtual machines
  E_NETWORK_OVERLAP: { exit: 3, title: "a network that overlaps another" },
  E_DISK_FIT: { exit: 8, title: "a disk that does not fit" },
  E_IMAGE_ARCH: { exit: 3, title: "an image of another architecture" },
  E_IMAGE_FORMAT: { exit: 3, title: "an image of another format" },
  E_VM_UNSUPPORTED: { exit: 8, title: "a machine that the host cannot run" },
  E_LIBVIRT: { exit: 6, title: "libvirt failed or is not there" },
  E_LIBVIRT_XML: { exit: 6, title: "an answer of libvirt that cannot be read" },

  // Booting a kernel
  E_BOOT_IMAGE: { exit: 3, title: "a kernel image that cannot be booted" },
  E_BOOT_USERLAND: { exit: 3, title: "nothing to run in the guest" },
  E_QEMU_MISSING: { exit: 5, title: "QEMU is not installed" },
  E_QEMU: { exit: 6, title: "QEMU failed" },
  E_BOOT_CRASHED: { exit: 7, title: "the kernel died before it was ready" },
  E_BOOT_HUNG: { exit: 7, title: "the kernel did not become ready in time" },
  E_BOOT_UNVERIFIED: { exit: 7, title: "a machine was not shown to be up in time" },
  E_BOOT_STALE: { exit: 7, title: "another kernel came up than the one placed" },
  E_GUEST_CRASHED: { exit: 6, title: "the machine died while the command ran" },
  E_GUEST_HUNG: { exit: 6, title: "the machine hung while the command ran" },

  E_CANCELLED: { exit: 130, title: "cancelled" },
} as const satisfies Record<string, { exit: number; title: string }>;

export type Code = keyof typeof CODES;
