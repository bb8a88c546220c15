/**
 * A guest of 512 bytes: boots under SeaBIOS in about a second, and needs neither kernel nor download. On the first serial port
 * it prints `labctl guest ready`, then gives back what it is sent; at ACPI's power button it prints `labctl guest off` and switches
 * itself off (machine type `pc`: PIIX4, whose power management SeaBIOS puts at I/O port 0x600). It sleeps between.
 */
const CODE = Buffer.from(
  [
    "31c08ed88ed0bc007cfc", // ds = ss = 0, stack below 0x7c00
    "b0fee621b0ffe6a131c0", // no interrupts but the timer's: ACPI's own would come again and again
    "baf903ee", // UART: no interrupts
    "bafb03b003ee", // 8N1
    "b80001ba0006ef", // PM1 status: forget an old press of the button
    "ba0206ef", // PM1 enable: the button
    "be767ce82e00", // print "ready"
    "ba0006edf6c4017515", // loop: button pressed? -> off
    "bafd03eca8017504", // a byte arrived? -> echo
    "fbf4ebeb", // sleep until the next interrupt (the timer's, 18 a second); loop
    "baf803ece81c00ebe2", // echo: read, write, loop
    "be8b7ce80a00", // off: print "off"
    "ba0406b80020ef", // PM1 control: sleep, type S5
    "f4ebfd", // halt
    "ac84c07413e80200ebf6", // print: until a zero byte
    "50bafd03eca82074fb58baf803eec3", // put one byte when the UART takes it
  ].join(""),
  "hex",
);
const READY_AT = 0x76;
const OFF_AT = 0x8b;

export const GUEST_READY = "labctl guest ready";
export const GUEST_OFF = "labctl guest off";

/** A raw disk image of 1 MiB, which boots: SeaBIOS takes a smaller one on virtio for no disk at all. */
export function bootSectorDisk(): Buffer {
  const disk = Buffer.alloc(1 << 20);
  CODE.copy(disk);
  disk.write(`${GUEST_READY}\r\n\0`, READY_AT, "latin1");
  disk.write(`${GUEST_OFF}\r\n\0`, OFF_AT, "latin1");
  disk.writeUInt16LE(0xaa55, 510);
  return disk;
}
