#!/bin/sh
# Which tools for building and booting kernels are on this machine. Writes a table to $OUT.
set -eu

tools="gcc clang ld.lld make flex bison bc pahole ccache sparse git
qemu-system-x86_64 qemu-system-aarch64 aarch64-linux-gnu-gcc arm-linux-gnueabihf-gcc riscv64-linux-gnu-gcc
dtc u-boot-mkimage ser2net picocom gdb-multiarch crash trace-cmd bpftrace"

draft=$(mktemp "$OUT.XXXXXX")
trap 'rm -f "$draft"' EXIT
found=0
missing=""
{
  echo "What this machine has for kernel work ($(uname -srm))"
  echo
  for tool in $tools; do
    if path=$(command -v "$tool" 2>/dev/null); then
      version=$("$tool" --version 2>/dev/null </dev/null | head -n 1 || true)
      printf '  yes  %-26s %s\n' "$tool" "${version:-$path}"
    else
      printf '  no   %s\n' "$tool"
    fi
  done
} >"$draft"
chmod 0644 "$draft"
for tool in $tools; do
  if command -v "$tool" >/dev/null 2>&1; then found=$((found + 1)); else missing="$missing $tool"; fi
done
mv -f "$draft" "$OUT"
trap - EXIT
echo "$found tools for kernel work found; missing:${missing:- none}"
